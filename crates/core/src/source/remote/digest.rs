//! Checksums that are cheap to verify: at least ten times as fast as a network.

use crc_fast::CrcAlgorithm;
use sha2::{Digest as _, Sha256};

/// The checksum that a body has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest {
    algorithm: Algorithm,
    expected: Vec<u8>,
}

/// What a checksum is computed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// `crc32` of S3.
    Crc32,
    /// `crc32c` of S3 and Google.
    Crc32c,
    /// `crc64nvme` of S3.
    Crc64Nvme,
    /// `sha256` of S3 and of large files of the Hub; cheap where the processor has instructions for it.
    Sha256,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC-32",
            Self::Crc32c => "CRC-32C",
            Self::Crc64Nvme => "CRC-64/NVME",
            Self::Sha256 => "SHA-256",
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha256 => 32,
        }
    }

    fn is_cheap(self) -> bool {
        self != Self::Sha256 || is_sha256_checked()
    }
}

/// Whether objects are checked of whose checksums their place names a SHA-256 alone: only where the processor has instructions for it.
pub fn is_sha256_checked() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("sha");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("sha2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

impl Digest {
    /// What it is called.
    pub(super) fn name(&self) -> &'static str {
        self.algorithm.name()
    }

    /// From its bytes; `None` when they are not as many as the algorithm makes, or it costs too much here.
    pub(crate) fn new(algorithm: Algorithm, expected: Vec<u8>) -> Option<Self> {
        (expected.len() == algorithm.len() && algorithm.is_cheap()).then_some(Self { algorithm, expected })
    }

    /// From base64, as headers have it. A checksum of checksums (`…-3`) is none of the bytes.
    pub(crate) fn from_base64(algorithm: Algorithm, text: &str) -> Option<Self> {
        Self::new(algorithm, reqsign_core::hash::base64_decode(text.trim()).ok()?)
    }

    /// From hexadecimal digits.
    pub(crate) fn from_hex(algorithm: Algorithm, text: &str) -> Option<Self> {
        let digits = text.as_bytes().chunks(2).map(|pair| {
            std::str::from_utf8(pair)
                .ok()
                .filter(|pair| pair.len() == 2)
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
        });
        Self::new(algorithm, digits.collect::<Option<_>>()?)
    }

    pub(super) fn begin(self) -> Running {
        let crc = |algorithm| State::Crc(crc_fast::Digest::new(algorithm));
        let state = match self.algorithm {
            Algorithm::Crc32 => crc(CrcAlgorithm::Crc32IsoHdlc),
            Algorithm::Crc32c => crc(CrcAlgorithm::Crc32Iscsi),
            Algorithm::Crc64Nvme => crc(CrcAlgorithm::Crc64Nvme),
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
        };
        Running { digest: self, state }
    }
}

/// A checksum being computed.
pub(super) struct Running {
    digest: Digest,
    state: State,
}

enum State {
    Crc(crc_fast::Digest),
    Sha256(Sha256),
}

impl Running {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Crc(crc) => crc.update(bytes),
            State::Sha256(sha) => sha.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Result<(), String> {
        let Digest { algorithm, expected } = self.digest;
        let found = match self.state {
            State::Crc(crc) => crc.finalize().to_be_bytes()[8 - algorithm.len()..].to_vec(),
            State::Sha256(sha) => sha.finalize().to_vec(),
        };
        if found == expected {
            return Ok(());
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let (name, found, expected) = (algorithm.name(), hex(&found), hex(&expected));
        Err(format!("the bytes were damaged on their way: their {name} is {found}, the store says {expected}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(digest: Digest, bytes: &[u8]) -> Result<(), String> {
        let mut running = digest.begin();
        bytes.chunks(3).for_each(|chunk| running.update(chunk));
        running.finish()
    }

    #[test]
    fn every_algorithm_gives_its_published_check_value() {
        let data = b"123456789";
        for (algorithm, hex) in [
            (Algorithm::Crc32, "cbf43926"),
            (Algorithm::Crc32c, "e3069283"),
            (Algorithm::Crc64Nvme, "ae8b14860a799888"),
            (Algorithm::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
        ] {
            let Some(digest) = Digest::from_hex(algorithm, hex) else {
                assert_eq!(algorithm, Algorithm::Sha256, "the others are cheap everywhere");
                continue;
            };
            check(digest.clone(), data).expect("the same");
            let words = check(digest, b"123456780").expect_err("another");
            assert!(words.contains(algorithm.name()) && words.contains(hex), "{words}");
        }
    }

    #[test]
    fn what_is_no_checksum_of_the_bytes_is_none() {
        assert!(Digest::from_base64(Algorithm::Crc32c, "4waSgw==").is_some());
        for text in ["4waSgw==-3", "4waS", "", "%"] {
            assert_eq!(Digest::from_base64(Algorithm::Crc32c, text), None, "{text}");
        }
        assert_eq!(Digest::from_hex(Algorithm::Crc32, "cbf4392"), None);
    }
}
