//! Durations as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};

/// A length of time: `"1h"`, `"90s"`, `"30ms"`, `"2d"`, or seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

/// Longest duration anybody means: a hundred years.
const LONGEST_SECONDS: f64 = 100.0 * 365.25 * 86_400.0;

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit = match unit.trim() {
            "ms" => 0.001,
            "" | "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => f64::NAN,
        };
        number.parse::<f64>().ok().and_then(|number| seconds(number * unit)).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "use duration", text).because("write it like 90s, 10m, 1h or 2d")
        })
    }
}

fn seconds(seconds: f64) -> Option<Span> {
    (0.0..=LONGEST_SECONDS).contains(&seconds).then(|| Span(Duration::from_secs_f64(seconds)))
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_secs_f64())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text)
    }
}

struct Text;

impl Visitor<'_> for Text {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration like \"1h\", or seconds")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        text.parse().map_err(|error: Error| E::custom(error.report()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Span, E> {
        seconds(number).ok_or_else(|| E::custom("a duration is neither negative nor endless"))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Span, E> {
        self.visit_f64(number as f64)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Span, E> {
        self.visit_f64(number as f64)
    }
}
