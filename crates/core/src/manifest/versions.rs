//! Object versions in few bytes.
//!
//! Nearly every entity tag is a quoted MD5 in hexadecimal, with a part count behind it for multipart uploads: 34 and more
//! characters that say 16 bytes. Those are stored as bytes; any other tag as it is. Decoding gives the very same string.

use crate::source::Version;

const UNKNOWN: u8 = 0;
const MODIFIED: u8 = 1;
const MD5: u8 = 2;
const MD5_PARTS: u8 = 3;
const VERBATIM: u8 = 4;

/// A list of versions.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Versions {
    bytes: Vec<u8>,
    ends: Vec<u64>,
}

impl Versions {
    pub(super) fn push(&mut self, version: &Version) {
        encode(version, &mut self.bytes);
        self.ends.push(self.bytes.len() as u64);
    }

    pub(super) fn push_encoded(&mut self, encoded: &[u8]) {
        self.bytes.extend_from_slice(encoded);
        self.ends.push(self.bytes.len() as u64);
    }

    pub(super) fn encoded(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.bytes[start..self.ends[index] as usize]
    }

    pub(super) fn get(&self, index: usize) -> Version {
        decode(self.encoded(index)).unwrap_or_default()
    }

    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + 8 * self.ends.capacity()
    }

    pub(super) fn parts(&self) -> (&[u8], &[u64]) {
        (&self.bytes, &self.ends)
    }

    /// From stored parts; `None` when they do not fit together.
    pub(super) fn from_parts(bytes: Vec<u8>, ends: Vec<u64>) -> Option<Self> {
        let ordered = ends.windows(2).all(|pair| pair[0] <= pair[1]);
        if !ordered || ends.last().copied().unwrap_or(0) != bytes.len() as u64 {
            return None;
        }
        let versions = Self { bytes, ends };
        (0..versions.ends.len()).all(|index| decode(versions.encoded(index)).is_some()).then_some(versions)
    }
}

fn encode(version: &Version, out: &mut Vec<u8>) {
    match version {
        Version::Unknown => out.push(UNKNOWN),
        Version::Modified(nanoseconds) => {
            out.push(MODIFIED);
            out.extend_from_slice(&nanoseconds.to_le_bytes());
        }
        Version::ETag(tag) => match md5_tag(tag) {
            Some((digest, None)) => {
                out.push(MD5);
                out.extend_from_slice(&digest);
            }
            Some((digest, Some(parts))) => {
                out.push(MD5_PARTS);
                out.extend_from_slice(&digest);
                out.extend_from_slice(&parts.to_le_bytes());
            }
            None => {
                out.push(VERBATIM);
                out.extend_from_slice(tag.as_bytes());
            }
        },
    }
}

fn decode(encoded: &[u8]) -> Option<Version> {
    let (&kind, rest) = encoded.split_first()?;
    Some(match kind {
        UNKNOWN if rest.is_empty() => Version::Unknown,
        MODIFIED => Version::Modified(u64::from_le_bytes(rest.try_into().ok()?)),
        MD5 if rest.len() == 16 => Version::ETag(format!("\"{}\"", hex(rest))),
        MD5_PARTS if rest.len() == 18 => {
            let parts = u16::from_le_bytes([rest[16], rest[17]]);
            Version::ETag(format!("\"{}-{parts}\"", hex(&rest[..16])))
        }
        VERBATIM => Version::ETag(str::from_utf8(rest).ok()?.to_owned()),
        _ => return None,
    })
}

/// Takes `"<32 hex>"` or `"<32 hex>-<parts>"` apart; `None` when putting it together again would give another string.
fn md5_tag(tag: &str) -> Option<([u8; 16], Option<u16>)> {
    let inner = tag.strip_prefix('"')?.strip_suffix('"')?;
    let (digits, parts) = match inner.split_once('-') {
        Some((digits, parts)) => (digits, Some(parts)),
        None => (inner, None),
    };
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if digits.len() != 32 || !digits.bytes().all(lower_hex) {
        return None;
    }
    let mut digest = [0; 16];
    for (byte, pair) in digest.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    match parts {
        None => Some((digest, None)),
        Some(text) => {
            let parts: u16 = text.parse().ok()?;
            (parts.to_string() == text).then_some((digest, Some(parts)))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_comes_back_as_it_was() {
        let tags = [
            "\"9b2cf535f27731c974343645a3985328\"",
            "\"9b2cf535f27731c974343645a3985328-12\"",
            "\"9b2cf535f27731c974343645a3985328-012\"",
            "\"9b2cf535f27731c974343645a3985328-99999\"",
            "\"9B2CF535F27731C974343645A3985328\"",
            "9b2cf535f27731c974343645a3985328",
            "W/\"weak\"",
            "",
        ];
        let mut versions = Versions::default();
        let mut expected = vec![Version::Unknown, Version::Modified(u64::MAX)];
        expected.extend(tags.iter().map(|&tag| Version::ETag(tag.to_owned())));
        for version in &expected {
            versions.push(version);
        }
        let got: Vec<_> = (0..expected.len()).map(|index| versions.get(index)).collect();
        assert_eq!(got, expected);
        assert_eq!((versions.encoded(2).len(), versions.encoded(3).len()), (17, 19));
    }
}
