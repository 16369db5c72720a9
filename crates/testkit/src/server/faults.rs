//! What goes wrong, and for which requests.
//!
//! Rules are asked in order; the first that applies decides. Whether a share applies to a request hangs on the seed, the number
//! of the request and the place of the rule, on nothing else: the same requests in the same order fail the same way again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::counters::Class;
use super::protocol::Call;

/// What goes wrong with a request. Words in backquotes are what scripts call it.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// `status=503`: an error, perhaps with a time after which to come back.
    Status {
        /// What it answers.
        code: StatusCode,
        /// Seconds in the header `Retry-After`.
        retry_after: Option<u64>,
    },
    /// `reset-before`: the connection is reset instead of an answer.
    ResetBefore,
    /// `reset-mid`: the connection is reset after half of the body.
    ResetMid,
    /// `stall=1s`: nothing comes for that long, then the answer.
    Stall(Duration),
    /// `stall-mid=1s`: nothing comes for that long after half of the body.
    StallMid(Duration),
    /// `drip=100ms`: the body comes byte by byte, one in that time.
    Drip(Duration),
    /// `truncate`: the connection ends after half of the body.
    Truncate,
    /// `short-length`: the object is told as 10 bytes shorter than it is.
    ShortLength,
    /// `long`: 10 bytes more than there are, without a length.
    Long,
    /// `whole-for-range`: the whole object where a range was asked for.
    WholeForRange,
    /// `wrong-range`: says to be another range than it is.
    WrongRange,
    /// `swap`: the object is replaced while it is answered, and the connection is reset after half of the old body.
    Swap,
    /// `swap-before`: the object is replaced just before it is answered.
    SwapBefore,
    /// `expired`: the credentials are no longer good.
    Expired,
    /// `denied`: the credentials do not suffice.
    Denied,
    /// `redirect-loop`: sends the client where it came from.
    RedirectLoop,
    /// `login-page`: a web page and success, as captive portals answer.
    LoginPage,
    /// `error-page`: a web page of 100 kB and an error, as gateways answer.
    ErrorPage,
    /// `cut`: half of the answer, as if that were all of it.
    Cut,
    /// `flip`: one bit of the body is wrong.
    Flip,
    /// `rewrite=ONE=>OTHER`: the answer's headers and body have other words where the one are.
    Rewrite {
        /// What is looked for.
        one: String,
        /// What is there instead.
        other: String,
    },
    /// `missing`: there is no such thing.
    Missing,
}

/// Which requests a rule is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum On {
    /// Reads of objects.
    #[default]
    Get,
    /// Pages of listings.
    List,
    /// Questions about one object.
    Head,
    /// All requests.
    Any,
}

/// A fault, and when it happens.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// What happens.
    pub fault: Fault,
    /// To which share of the requests it is for, from 0 to 1.
    pub share: f64,
    /// How many of those requests it lets pass first.
    pub after: u64,
    /// How often at most.
    pub times: Option<u64>,
    /// For which requests it is.
    pub on: On,
    /// What their keys contain.
    pub key: Option<String>,
}

impl Rule {
    /// The fault at every read of an object.
    pub fn always(fault: Fault) -> Self {
        Self { fault, share: 1.0, after: 0, times: None, on: On::default(), key: None }
    }

    /// The same at most so often.
    pub fn times(self, times: u64) -> Self {
        Self { times: Some(times), ..self }
    }

    /// The same for other requests.
    pub fn on(self, on: On) -> Self {
        Self { on, ..self }
    }

    fn is_for(&self, call: &Call<'_>) -> bool {
        let asked = match self.on {
            On::Get => call.class == Class::Get,
            On::List => call.class == Class::List,
            On::Head => call.class == Class::Head,
            On::Any => true,
        };
        asked && self.key.as_ref().is_none_or(|part| call.key.contains(&**part)) && self.fault.can_befall(call)
    }
}

impl Fault {
    /// Whether the fault means anything for a request: what spoils bodies leaves requests without one alone.
    fn can_befall(&self, call: &Call<'_>) -> bool {
        match self {
            Self::WholeForRange | Self::WrongRange => call.carries && call.range.is_some(),
            Self::ShortLength | Self::SwapBefore => call.object.is_some(),
            Self::Cut | Self::Drip(_) => call.carries || call.class == Class::List,
            Self::ResetMid | Self::StallMid(_) | Self::Truncate | Self::Long | Self::Swap | Self::Flip => call.carries,
            _ => true,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Spares requests the lock while there are no rules.
    any: AtomicBool,
    seed: AtomicU64,
    requests: AtomicU64,
    done: AtomicU64,
    rules: Mutex<Vec<Followed>>,
}

/// A rule, and what came of it.
#[derive(Debug)]
struct Followed {
    rule: Rule,
    /// Requests that it was for.
    met: u64,
    happened: u64,
}

impl Followed {
    fn new(rule: Rule) -> Self {
        Self { rule, met: 0, happened: 0 }
    }

    fn applies(&mut self, call: &Call<'_>, drawn: f64) -> bool {
        let rule = &self.rule;
        if !rule.is_for(call) {
            return false;
        }
        self.met += 1;
        let happens =
            self.met > rule.after && rule.times.is_none_or(|times| self.happened < times) && drawn < rule.share;
        self.happened += u64::from(happens);
        happens
    }
}

impl Faults {
    pub(super) fn set(&self, rules: Vec<Rule>) {
        let mut kept = self.rules.lock();
        *kept = rules.into_iter().map(Followed::new).collect();
        self.any.store(!kept.is_empty(), Ordering::SeqCst);
    }

    pub(super) fn add(&self, rule: Rule) {
        let mut kept = self.rules.lock();
        kept.push(Followed::new(rule));
        self.any.store(true, Ordering::SeqCst);
    }

    pub(super) fn set_seed(&self, seed: u64) {
        self.seed.store(seed, Ordering::SeqCst);
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// What happens to the next request.
    pub(super) fn choose(&self, call: &Call<'_>) -> Option<Fault> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let seed = self.seed.load(Ordering::Relaxed);
        let mut rules = self.rules.lock();
        let chosen = rules.iter_mut().enumerate().find_map(|(place, followed)| {
            followed.applies(call, drawn(seed, number, place)).then(|| followed.rule.fault.clone())
        })?;
        self.done.fetch_add(1, Ordering::SeqCst);
        Some(chosen)
    }
}

/// A number from 0 to 1, less 1 itself.
fn drawn(seed: u64, number: u64, place: usize) -> f64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&(place as u64).to_le_bytes());
    (xxh3_64_with_seed(&bytes, seed) >> 11) as f64 / (1_u64 << 53) as f64
}
