//! torch's `.pt`: read without executing anything, and written.
//!
//! A `.pt` file is a zip whose entry `data.pkl` is a pickle that says how tensors are built from storages, and whose
//! entries `data/0`, `data/1` … are those storages, stored uncompressed and aligned ([`zip`]). Before torch 1.6 it was a
//! few pickles in a row with the storages behind them ([`legacy`]).
//!
//! The pickle runs on a small machine ([`machine`]) that knows the data opcodes and an allow-list of constructors
//! ([`globals`]): it fills an arena of nodes and never calls or imports anything. What it left on its stack becomes a
//! [`Value`] ([`tree`]), whose tensors are views of the object's own bytes. Everything is bounded by [`Limits`] and by the
//! input's length; storages are checked against the zip's checksums, unless the file was written without any.

mod globals;
mod legacy;
mod machine;
mod tree;
mod write;
mod zip;

use bytes::Bytes;

use super::{Decoded, Decoder, Limits};
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::value::Value;
use machine::Machine;
use tree::Storages;

pub use write::write_pt;

/// The `.pt` decoder.
#[derive(Debug)]
pub struct Pt;

impl Decoder for Pt {
    fn name(&self) -> &'static str {
        "torch"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &[".pt", ".pth"]
    }

    fn decode(&self, bytes: &Bytes, limits: &Limits, buffers: &BufferPool) -> Result<Decoded> {
        let value = if bytes.starts_with(zip::LOCAL_SIGNATURE) {
            decode_zip(bytes, limits, buffers)?
        } else {
            legacy::decode(bytes, limits, buffers)?
        };
        Ok(vec![(String::new(), value)])
    }
}

fn decode_zip(bytes: &Bytes, limits: &Limits, buffers: &BufferPool) -> Result<Value> {
    let archive = zip::Archive::open(bytes)?;
    let prefix = archive.folder_of("data.pkl")?;
    // One buffer for every name that is looked up.
    let mut name = String::with_capacity(prefix.len() + 24);
    let mut named = |entry: &str| {
        name.clear();
        name.push_str(prefix);
        name.push_str(entry);
        archive.get(&name)
    };
    if named("constants.pkl").is_some() {
        return Err(Error::new(ErrorKind::Unsupported, "read", "torch archive")
            .because("it is a TorchScript program, not saved tensors"));
    }
    let big_endian = match named("byteorder") {
        None => false,
        Some(entry) => match archive.read(entry)? {
            b"little" => false,
            b"big" => true,
            _ => return Err(corrupt("byteorder", "it is neither `little` nor `big`")),
        },
    };
    let pickle = archive.require(&format!("{prefix}data.pkl"))?;
    let mut machine = Machine::new(archive.read(pickle)?, pickle.start, limits);
    let root = machine.run()?;
    name.clear();
    name.push_str(prefix);
    name.push_str("data/");
    let folder = name.len();
    let mut storages = Storages::new(big_endian, buffers);
    for spec in &machine.storages {
        name.truncate(folder);
        name.push_str(spec.key);
        let entry = archive.require(&name)?;
        archive.read(entry)?;
        storages.add(spec, &bytes.slice(entry.start..entry.start + entry.len))?;
    }
    tree::build(&machine, root, &mut storages, limits)
}

fn corrupt(what: impl std::fmt::Display, reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, "read", what).because(reason)
}

#[cfg(test)]
mod tests;
