//! Rules as text: `status=503,retry-after=1,share=0.1` or `reset-mid,times=3,on=get,key=.pt`.

use std::str::FromStr;
use std::time::Duration;

use headwater::config::Span;
use hyper::StatusCode;

use super::faults::{Fault, On, Rule};

/// How long a body stalls where no time is said: longer than anybody waits.
const FOR_EVER: Duration = Duration::from_hours(1);

impl FromStr for Rule {
    type Err = String;

    /// The fault first, then in any order what narrows it down.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |part: &str| format!("cannot use `{part}` in the fault `{text}`");
        let mut parts = text.trim().split(',').map(|part| (part, part.split_once('=').unwrap_or((part, ""))));
        let (first, (name, value)) = parts.next().ok_or("expected a fault")?;
        let mut rule = Self::always(fault(name, value).ok_or_else(|| wrong(first))?);
        for (part, (name, value)) in parts {
            match (name, &mut rule.fault) {
                ("retry-after", Fault::Status { retry_after, .. }) => {
                    *retry_after = Some(value.parse().map_err(|_| wrong(part))?);
                }
                ("share", _) => {
                    let share = value.parse().ok().filter(|share| (0.0..=1.0).contains(share));
                    rule.share = share.ok_or_else(|| wrong(part))?;
                }
                ("after", _) => rule.after = value.parse().map_err(|_| wrong(part))?,
                ("times", _) => rule.times = Some(value.parse().map_err(|_| wrong(part))?),
                ("on", _) => rule.on = on(value).ok_or_else(|| wrong(part))?,
                ("key", _) => rule.key = Some(value.to_owned()),
                _ => return Err(wrong(part)),
            }
        }
        Ok(rule)
    }
}

fn on(text: &str) -> Option<On> {
    Some(match text {
        "get" => On::Get,
        "list" => On::List,
        "head" => On::Head,
        "any" => On::Any,
        _ => return None,
    })
}

fn fault(name: &str, value: &str) -> Option<Fault> {
    let time = || value.parse::<Span>().ok().map(|span| span.0);
    match (name, value) {
        ("status", _) => Some(Fault::Status { code: value.parse::<StatusCode>().ok()?, retry_after: None }),
        ("drip", _) => time().map(Fault::Drip),
        ("rewrite", _) => {
            let (one, other) = value.split_once("=>")?;
            Some(Fault::Rewrite { one: one.to_owned(), other: other.to_owned() })
        }
        ("stall", _) => time().map(Fault::Stall),
        ("stall-mid", "") => Some(Fault::StallMid(FOR_EVER)),
        ("stall-mid", _) => time().map(Fault::StallMid),
        (name, "") => Some(match name {
            "reset-before" => Fault::ResetBefore,
            "reset-mid" => Fault::ResetMid,
            "truncate" => Fault::Truncate,
            "short-length" => Fault::ShortLength,
            "long" => Fault::Long,
            "whole-for-range" => Fault::WholeForRange,
            "wrong-range" => Fault::WrongRange,
            "swap" => Fault::Swap,
            "swap-before" => Fault::SwapBefore,
            "expired" => Fault::Expired,
            "denied" => Fault::Denied,
            "redirect-loop" => Fault::RedirectLoop,
            "login-page" => Fault::LoginPage,
            "error-page" => Fault::ErrorPage,
            "cut" => Fault::Cut,
            "flip" => Fault::Flip,
            "missing" => Fault::Missing,
            _ => return None,
        }),
        _ => None,
    }
}
