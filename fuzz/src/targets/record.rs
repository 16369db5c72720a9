//! Packed records: whatever the bytes say, opening, verifying and unpacking end with a value or an error, and what unpacks is packed
//! and read back the same.
//!
//! The checksum of head and tree is made right first, or nothing but the checksum would ever be tried; so are the lengths, unless the
//! first byte says to leave them.

use headwater::buffer::BufferPool;
use headwater::format::record::{self, Compression};
use headwater::value::Packed;
use xxhash_rust::xxh3::Xxh3;

// As `docs/formats.md` has them.
const HEAD_BYTES: usize = 32;
const ALIGNMENT: usize = 64;
/// Views of few bytes may be of any number of elements.
const LARGEST: usize = 1 << 20;

/// Whether they are one, as far as its tree says.
pub fn read(data: &[u8]) -> bool {
    let Some((&told, record)) = data.split_first() else { return false };
    let bytes = sealed(record, told & 1 == 0).into();
    let _ = record::verify(&bytes);
    let Ok(value) = record::open(&bytes) else { return false };
    let buffers = BufferPool::new(0);
    if Packed::bytes_for(&value) > LARGEST {
        return true;
    }
    let Ok(own) = Packed::new(&value, &buffers) else { return true };
    if own.value().tensor_bytes() < LARGEST {
        let again = record::pack(own.value(), Compression::AtLeast(0.0), &buffers).expect("packs what was read");
        record::verify(again.record().expect("a record")).expect("sound");
        assert_eq!(again.value(), own.value());
    }
    true
}

fn sealed(record: &[u8], with_lengths: bool) -> Vec<u8> {
    let mut record = record.to_vec();
    if record.len() < HEAD_BYTES {
        return record;
    }
    let room = record.len() - HEAD_BYTES;
    let said = u32::from_le_bytes(record[4..8].try_into().expect("four bytes")) as usize;
    let tree = if with_lengths { said.min(room / ALIGNMENT * ALIGNMENT) } else { said.min(room) };
    let begin = (HEAD_BYTES + tree).next_multiple_of(ALIGNMENT);
    if begin > record.len() {
        return record;
    }
    if with_lengths {
        record[4..8].copy_from_slice(&(tree as u32).to_le_bytes());
        let payload = (record.len() - begin) as u64;
        record[8..16].copy_from_slice(&payload.to_le_bytes());
    }
    let mut hash = Xxh3::new();
    hash.update(&record[..HEAD_BYTES - 8]);
    hash.update(&record[HEAD_BYTES..begin]);
    record[HEAD_BYTES - 8..HEAD_BYTES].copy_from_slice(&hash.digest().to_le_bytes());
    record
}
