//! Packed records: decoded values as the cache keeps them, in memory and on disk.
//!
//! A record is a head, the value's tree and the tensors' bytes — normatively `docs/formats.md`. Tensors are [coded](crate::codec::tensor)
//! in independent blocks where that pays, else they lie there as they are. [`pack`] makes one; [`open`] reads the tree and leaves
//! tensors where they are: those that lie as they are become views, the others are unpacked when they are copied, whole or in
//! part. Head and tree have a checksum that [`open`] compares; every block has one that [`verify`] does.
//!
//! Records are of this machine or of others that run this project, but disks flip bits and files are cut off: whatever a record
//! says is checked before it is believed, and what cannot be true is `Corrupt`.

mod payload;
mod read;
mod tree;
mod write;

#[cfg(test)]
mod tests;

pub use read::{open, verify};
pub use write::{Compression, memory_for, pack};

use crate::error::{Error, ErrorKind};

/// How a record begins; the last byte is the version of the format.
const MAGIC: [u8; 4] = *b"HWR\x01";
/// Bytes before the tree.
const HEAD_BYTES: usize = 32;
/// Where the payload and every tensor in it may begin.
const ALIGNMENT: usize = 64;

fn damaged(reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, "read", "packed record").because(reason)
}
