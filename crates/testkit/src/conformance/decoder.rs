//! What every decoder has to do, shown on samples of its format.
//!
//! Damage is an error or changes nothing that can be seen; it is never a panic, and costs no more memory than the input's length
//! justifies.

use bytes::Bytes;
use headwater::buffer::BufferPool;
use headwater::format::{Decoded, Decoder, Limits};
use headwater::{ErrorKind, Result};

use crate::allocation;

/// Damaged copies of each sample.
const DAMAGED: u64 = 500;
/// Bytes that are overwritten in one of them at most.
const MOST_OVERWRITTEN: u64 = 4;
/// Memory that each byte of input may cost: most is a node of an arena and a value, for an opcode of one byte.
const BYTES_PER_BYTE: usize = 256;
/// Memory that any input may cost.
const BYTES_AT_LEAST: usize = 64 << 10;

/// Runs the whole suite. The binary has to count its memory: see [`allocation`].
pub fn decoder(decoder: &dyn Decoder, samples: &[Bytes]) {
    assert!(allocation::is_counted(), "install `allocation::Counting` as the binary's allocator");
    assert!(!samples.is_empty(), "no samples of {}", decoder.name());
    decode(decoder, &Bytes::new()).expect_err("nothing at all");
    for (number, sample) in samples.iter().enumerate() {
        let whole = decode(decoder, sample).unwrap_or_else(|error| panic!("sample {number}: {}", error.report()));
        assert_eq!(decode(decoder, sample).expect("again"), whole, "sample {number} decodes to the same each time");
        refuses_truncation(decoder, sample, &whole, number);
        survives_damage(decoder, sample, number as u64);
    }
}

fn decode(decoder: &dyn Decoder, bytes: &Bytes) -> Result<Decoded> {
    let allowed = BYTES_AT_LEAST + BYTES_PER_BYTE * bytes.len();
    let (height, decoded) =
        allocation::height_of(|| decoder.decode(bytes, &Limits::default(), &BufferPool::new(1 << 20)));
    assert!(height <= allowed, "{} bytes of {} took {height} of memory", bytes.len(), decoder.name());
    if let Err(error) = &decoded {
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{}", error.report());
    }
    decoded
}

/// Some formats end in what nobody needs, so a cut may go unnoticed; but never change what is read.
fn refuses_truncation(decoder: &dyn Decoder, sample: &Bytes, whole: &Decoded, number: usize) {
    for cut in 0..sample.len() {
        if let Ok(decoded) = decode(decoder, &sample.slice(..cut)) {
            assert_eq!(decoded, *whole, "sample {number} cut at {cut}");
            assert!(cut > sample.len() / 2, "sample {number} decodes when cut at {cut} of {}", sample.len());
        }
    }
}

fn survives_damage(decoder: &dyn Decoder, sample: &Bytes, number: u64) {
    let mut random = Random(number);
    for _ in 0..DAMAGED {
        let mut damaged = sample.to_vec();
        for _ in 0..=random.below(MOST_OVERWRITTEN) {
            let at = random.below(sample.len() as u64) as usize;
            damaged[at] = random.below(256) as u8;
        }
        let _ = decode(decoder, &damaged.into());
    }
}

/// `SplitMix64`: the same damage on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}
