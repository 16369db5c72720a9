//! Sizes as people write them.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};

/// A number of bytes: `"8GB"` (decimal), `"512MiB"` (binary), or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit = unit.trim().to_ascii_lowercase();
        let (unit, base) = match unit.strip_suffix("ib") {
            Some(unit) => (unit, 1024.0_f64),
            None => (unit.strip_suffix('b').unwrap_or(&unit), 1000.0),
        };
        let power = ["", "k", "m", "g", "t", "p"].iter().position(|known| *known == unit);
        let bytes = power.zip(number.parse::<f64>().ok()).map(|(power, number)| number * base.powi(power as i32));
        bytes.filter(|&bytes| bytes < u64::MAX as f64).map(|bytes| Self(bytes as u64)).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "use size", text).because("write it like 8GB, 512MiB or 1000000")
        })
    }
}

impl fmt::Display for ByteSize {
    /// Three digits, decimal units: `1.5 MB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        for unit in ["B", "KB", "MB", "GB", "TB"] {
            if value < 999.5 {
                let digits = usize::from(unit != "B" && value < 99.95);
                return write!(f, "{value:.digits$} {unit}");
            }
            value /= 1000.0;
        }
        write!(f, "{value:.0} PB")
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text)
    }
}

struct Text;

impl Visitor<'_> for Text {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size like \"8GB\", or bytes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
        text.parse().map_err(|error: Error| E::custom(error.report()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<ByteSize, E> {
        Ok(ByteSize(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<ByteSize, E> {
        u64::try_from(number).map(ByteSize).map_err(|_| E::custom("a size is not negative"))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<ByteSize, E> {
        if (0.0..u64::MAX as f64).contains(&number) {
            Ok(ByteSize(number as u64))
        } else {
            Err(E::custom("a size is neither negative nor endless"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_with_three_digits_at_most() {
        let shown: Vec<_> = [0, 999, 1000, 99_940, 99_950, 6_815_744, 999_499_999, 999_500_000, 5_000_000_000_000_000]
            .map(|bytes| ByteSize(bytes).to_string())
            .into();
        assert_eq!(shown, ["0 B", "999 B", "1.0 KB", "99.9 KB", "100 KB", "6.8 MB", "999 MB", "1.0 GB", "5 PB"]);
    }
}
