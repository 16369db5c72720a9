//! The format before torch 1.6: pickles in a row, then the storages.
//!
//! Magic number, protocol version, system information, the object, the list of storage keys; then per key the number of
//! elements as a 64-bit integer and the elements.

use std::collections::HashMap;

use bytes::Bytes;

use super::super::Limits;
use super::corrupt;
use super::machine::{Id, Machine, Node};
use super::tree::{self, Storages};
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::value::{DType, Value};

/// `0x1950a86a20f9469cfc6c`, little-endian as a pickled integer.
const MAGIC: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

pub(super) fn decode(bytes: &Bytes, limits: &Limits, buffers: &BufferPool) -> Result<Value> {
    let mut at = 0;
    let mut next = |machine: &mut Machine<'_>| -> Result<Id> {
        let root = machine.run()?;
        at += machine.consumed();
        Ok(root)
    };
    let mut magic = Machine::new(bytes, 0, limits);
    let root = next(&mut magic).map_err(|_| foreign())?;
    if !matches!(magic.node(root), Node::BigInt(number) if *number == MAGIC) {
        return Err(foreign());
    }
    let mut protocol = Machine::new(&bytes[magic.consumed()..], magic.consumed(), limits);
    let root = next(&mut protocol)?;
    if protocol.int_of(root)? != PROTOCOL {
        return Err(Error::new(ErrorKind::Unsupported, "read", "torch legacy file").because("unknown protocol version"));
    }
    let start = magic.consumed() + protocol.consumed();
    let mut system = Machine::new(&bytes[start..], start, limits);
    let root = next(&mut system)?;
    let big_endian = is_big_endian(&system, root)?;
    let start = start + system.consumed();
    let mut object = Machine::new(&bytes[start..], start, limits);
    let object_root = next(&mut object)?;
    let start = start + object.consumed();
    let mut keys = Machine::new(&bytes[start..], start, limits);
    let keys_root = next(&mut keys)?;
    let order = keys.items_of(keys_root)?.iter().map(|&id| keys.str_of(id)).collect::<Result<Vec<_>>>()?;
    let mut storages = Storages::new(big_endian, buffers);
    load(bytes, at, &order, &object, &mut storages)?;
    tree::build(&object, object_root, &mut storages, limits)
}

fn is_big_endian(machine: &Machine<'_>, root: Id) -> Result<bool> {
    let Node::Dict { items, .. } = machine.node(root) else { return machine.refuse("no system information") };
    let little = items.iter().find(|(key, _)| machine.str_of(*key).is_ok_and(|key| key == "little_endian"));
    Ok(little.is_some_and(|&(_, value)| matches!(machine.node(value), Node::Bool(false))))
}

/// Finds every storage of the object behind the pickles, where they lie in the order of their keys.
fn load(bytes: &Bytes, mut at: usize, order: &[&str], object: &Machine<'_>, storages: &mut Storages<'_>) -> Result<()> {
    let mut items: HashMap<&str, usize> = HashMap::new();
    for spec in &object.storages {
        items.entry(spec.key).or_insert(spec.dtype.map_or(1, DType::size));
    }
    let mut found: HashMap<&str, Bytes> = HashMap::new();
    for &key in order {
        let cut = || corrupt(format_args!("storage {}", key.escape_debug()), "the file ends within it");
        let item = items.get(key).copied().unwrap_or(1);
        let count: [u8; 8] = bytes.get(at..at + 8).and_then(|count| count.try_into().ok()).ok_or_else(cut)?;
        let len = usize::try_from(i64::from_le_bytes(count)).ok().and_then(|count| count.checked_mul(item));
        let end = len.and_then(|len| len.checked_add(at + 8)).filter(|&end| end <= bytes.len()).ok_or_else(cut)?;
        found.entry(key).or_insert(bytes.slice(at + 8..end));
        at = end;
    }
    for spec in &object.storages {
        let stored = found
            .get(spec.key)
            .ok_or_else(|| corrupt(format_args!("storage {}", spec.key.escape_debug()), "it is not in the file"))?;
        storages.add(spec, stored)?;
    }
    Ok(())
}

fn foreign() -> Error {
    corrupt("torch file", "it begins neither like a zip archive nor like torch's legacy format")
}
