//! From the machine's arena to a value.

use std::collections::HashMap;

use bytes::Bytes;

use super::super::Limits;
use super::corrupt;
use super::globals::Global;
use super::machine::{Id, Machine, Node, Signs, StorageSpec, TensorSpec};
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::value::{DType, Dict, Tensor, Value};

/// Bytes that what is shared may add up to, beyond what the pickle itself holds.
const MAX_SHARED: usize = 64 << 20;

/// The bytes of all storages, in native byte order.
pub(super) struct Storages<'a> {
    big_endian: bool,
    buffers: &'a BufferPool,
    loaded: Vec<(Option<DType>, Bytes)>,
    /// Storages as some tensors see them, by number, element unit and signs: a few for each storage at most, however many tensors
    /// there are.
    turned: HashMap<(usize, usize, Signs), Bytes>,
}

impl<'a> Storages<'a> {
    pub(super) fn new(big_endian: bool, buffers: &'a BufferPool) -> Self {
        let big_endian = big_endian != cfg!(target_endian = "big");
        Self { big_endian, buffers, loaded: Vec::new(), turned: HashMap::new() }
    }

    /// Adds the next storage of the machine's list.
    pub(super) fn add(&mut self, spec: &StorageSpec<'_>, bytes: &Bytes) -> Result<()> {
        let item = spec.dtype.map_or(1, DType::size);
        let Some(len) = spec.numel.checked_mul(item).filter(|&len| len <= bytes.len()) else {
            let reason = format!("{} elements of {item} bytes do not fit into its {} bytes", spec.numel, bytes.len());
            return Err(corrupt(format_args!("storage {}", spec.key.escape_debug()), reason));
        };
        let bytes = bytes.slice(..len);
        let bytes = match spec.dtype {
            Some(dtype) if self.big_endian => self.swap(&bytes, dtype.swap_unit()),
            _ => bytes,
        };
        self.loaded.push((spec.dtype, bytes));
        Ok(())
    }

    /// A storage in native byte order for elements of `dtype`, with the marked signs turned round.
    fn get(&mut self, storage: usize, dtype: DType, signs: Signs) -> Bytes {
        let (stored, bytes) = &self.loaded[storage];
        let unit = dtype.swap_unit();
        let is_swapped = self.big_endian && stored.is_none() && unit > 1;
        if !is_swapped && signs == Signs::default() {
            return bytes.clone();
        }
        if let Some(known) = self.turned.get(&(storage, unit, signs)) {
            return known.clone();
        }
        let mut turned = if is_swapped { self.swap(bytes, unit) } else { bytes.clone() };
        if signs != Signs::default() {
            turned = self.flip(&turned, unit, signs);
        }
        self.turned.insert((storage, unit, signs), turned.clone());
        turned
    }

    fn flip(&self, bytes: &Bytes, unit: usize, signs: Signs) -> Bytes {
        let mut out = self.buffers.take(bytes.len());
        out.copy_from_slice(bytes);
        for (number, part) in out.chunks_exact_mut(unit).enumerate() {
            // Imaginary parts are the odd ones, and the sign is the highest bit of the last byte: little-endian here.
            if signs.neg ^ (signs.conj && number % 2 == 1) {
                part[unit - 1] ^= 0x80;
            }
        }
        out.freeze()
    }

    fn swap(&self, bytes: &Bytes, unit: usize) -> Bytes {
        let mut out = self.buffers.take(bytes.len());
        out.copy_from_slice(bytes);
        out.chunks_exact_mut(unit).for_each(<[u8]>::reverse);
        out.freeze()
    }
}

/// Builds the value of a node, each use of a shared node anew.
pub(super) fn build(machine: &Machine<'_>, root: Id, storages: &mut Storages<'_>, limits: &Limits) -> Result<Value> {
    // What the pickle spells out is in proportion to its length; only what it repeats has to be limited.
    let (nodes, bytes) = (limits.max_nodes + machine.consumed(), MAX_SHARED + machine.consumed());
    Builder { machine, storages, depth: limits.max_depth, nodes, bytes }.value(root)
}

struct Builder<'a, 'b, 'c> {
    machine: &'a Machine<'a>,
    storages: &'b mut Storages<'c>,
    /// What is left of each.
    depth: usize,
    nodes: usize,
    bytes: usize,
}

impl Builder<'_, '_, '_> {
    fn value(&mut self, id: Id) -> Result<Value> {
        self.nodes = self.nodes.checked_sub(1).ok_or_else(|| capped("it repeats too many values"))?;
        let machine = self.machine;
        Ok(match machine.node(id) {
            Node::None => Value::None,
            Node::Bool(it) => Value::Bool(*it),
            Node::Int(it) => Value::Int(*it),
            Node::Float(it) => Value::Float(*it),
            Node::Complex(real, imaginary) => Value::Complex(*real, *imaginary),
            Node::BigInt(it) => Value::BigInt(self.counted(it.len()).map(|()| it.to_vec())?),
            Node::Str(it) => Value::Str(self.counted(it.len()).map(|()| (*it).to_owned())?),
            Node::Bytes(it) => Value::Bytes(self.counted(it.len()).map(|()| it.clone())?),
            Node::Size(it) => Value::Size(self.counted(size_of_val(&it[..])).map(|()| it.clone())?),
            Node::Device(it) => Value::Device(self.counted(it.len()).map(|()| it.clone())?),
            Node::Global(Global::DType(it)) => Value::DType(*it),
            Node::Tensor(spec) => Value::Tensor(self.tensor(spec)?),
            Node::List(items) => Value::List(self.items(items)?),
            Node::Tuple(items) => Value::Tuple(self.items(items)?),
            Node::Set(items) => Value::Set(self.items(items)?),
            Node::Dict { items, ordered } => {
                let items = self.deeper(|this| {
                    items.iter().map(|&(key, value)| Ok((this.value(key)?, this.value(value)?))).collect()
                })?;
                Value::Dict(Dict { items, ordered: *ordered })
            }
            Node::Global(global) => return Err(bare(format_args!("{global:?}"))),
            Node::Storage(_) => return Err(bare("a storage without a tensor")),
        })
    }

    fn items(&mut self, items: &[Id]) -> Result<Vec<Value>> {
        self.deeper(|this| items.iter().map(|&item| this.value(item)).collect())
    }

    fn deeper<T>(&mut self, children: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth = self.depth.checked_sub(1).ok_or_else(|| capped("values nest too deep, or contain themselves"))?;
        let built = children(self);
        self.depth += 1;
        built
    }

    fn counted(&mut self, bytes: usize) -> Result<()> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(|| capped("it repeats too much"))?;
        Ok(())
    }

    fn tensor(&mut self, spec: &TensorSpec) -> Result<Tensor> {
        check_signs(spec.dtype, spec.signs)?;
        self.counted(size_of_val(&spec.shape[..]) + size_of_val(&spec.strides[..]))?;
        let storage = self.storages.get(spec.storage, spec.dtype, spec.signs);
        Tensor::new(spec.dtype, &spec.shape, &spec.strides, storage, spec.offset)
            .map_err(|cause| Error::new(ErrorKind::Corrupt, "read", "a tensor").caused_by(cause))
    }
}

/// Refuses signs on elements that have none, or not in their highest bit.
fn check_signs(dtype: DType, signs: Signs) -> Result<()> {
    let is_complex = matches!(dtype, DType::C32 | DType::C64 | DType::C128);
    let is_signed = is_complex || matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16);
    if signs.conj && !is_complex || signs.neg && !is_signed {
        let reason = format_args!("a marked sign on {dtype}").to_string();
        return Err(Error::new(ErrorKind::Unsupported, "read", "a tensor").because(reason));
    }
    Ok(())
}

/// The value may be meant, but costs more than a reader allows.
fn capped(reason: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "read", "pickle").because(reason)
}

fn bare(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, "read", "pickle").because(format_args!("{what} stands where a value should"))
}
