//! From the machine's arena to a value.

use bytes::Bytes;

use super::super::Limits;
use super::corrupt;
use super::globals::Global;
use super::machine::{Id, Machine, Node, Signs, StorageSpec, TensorSpec};
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::value::{DType, Dict, Tensor, Value};

/// Text that shared strings may add up to, beyond what the pickle itself holds.
const MAX_SHARED_TEXT: usize = 64 << 20;

/// The bytes of all storages, in native byte order.
pub(super) struct Storages<'a> {
    big_endian: bool,
    buffers: &'a BufferPool,
    loaded: Vec<(Option<DType>, Bytes)>,
    /// Untyped storages turned round for the element size of the tensor that asked.
    swapped: Vec<(usize, usize, Bytes)>,
}

impl<'a> Storages<'a> {
    pub(super) fn new(big_endian: bool, buffers: &'a BufferPool) -> Self {
        Self { big_endian: big_endian != cfg!(target_endian = "big"), buffers, loaded: Vec::new(), swapped: Vec::new() }
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

    fn get(&mut self, storage: usize, dtype: DType) -> Bytes {
        let (stored, bytes) = self.loaded[storage].clone();
        let unit = dtype.swap_unit();
        if !self.big_endian || stored.is_some() || unit == 1 {
            return bytes;
        }
        if let Some((.., swapped)) = self.swapped.iter().find(|known| (known.0, known.1) == (storage, unit)) {
            return swapped.clone();
        }
        let swapped = self.swap(&bytes, unit);
        self.swapped.push((storage, unit, swapped.clone()));
        swapped
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
    let (nodes, text) = (limits.max_nodes + machine.len(), MAX_SHARED_TEXT + machine.consumed());
    Builder { machine, storages, depth: limits.max_depth, nodes, text }.value(root)
}

struct Builder<'a, 'b, 'c> {
    machine: &'a Machine<'a>,
    storages: &'b mut Storages<'c>,
    /// What is left of each.
    depth: usize,
    nodes: usize,
    text: usize,
}

impl Builder<'_, '_, '_> {
    fn value(&mut self, id: Id) -> Result<Value> {
        self.nodes = self.nodes.checked_sub(1).ok_or_else(|| corrupt("pickle", "it repeats too many values"))?;
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
            Node::Device(it) => Value::Device(it.clone()),
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
        self.depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| corrupt("pickle", "values nest too deep, or contain themselves"))?;
        let built = children(self);
        self.depth += 1;
        built
    }

    fn counted(&mut self, text: usize) -> Result<()> {
        self.text = self.text.checked_sub(text).ok_or_else(|| corrupt("pickle", "it repeats too much text"))?;
        Ok(())
    }

    fn tensor(&mut self, spec: &TensorSpec) -> Result<Tensor> {
        let storage = self.storages.get(spec.storage, spec.dtype);
        let tensor = Tensor::new(spec.dtype, &spec.shape, &spec.strides, storage, spec.offset)
            .map_err(|cause| Error::new(ErrorKind::Corrupt, "read", "a tensor").caused_by(cause))?;
        if spec.signs == Signs::default() { Ok(tensor) } else { self.resolved(&tensor, spec.signs) }
    }

    /// The tensor with its marked signs turned round, in memory of its own.
    fn resolved(&self, tensor: &Tensor, signs: Signs) -> Result<Tensor> {
        let (dtype, unit) = (tensor.dtype(), tensor.dtype().swap_unit());
        let is_complex = matches!(dtype, DType::C32 | DType::C64 | DType::C128);
        let is_signed = is_complex || matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16);
        if signs.conj && !is_complex || signs.neg && !is_signed {
            return Err(corrupt("a tensor", format_args!("a marked sign on {dtype}")));
        }
        // An expanded view of little memory must not become much of it.
        let nbytes = tensor.numel().checked_mul(dtype.size()).filter(|&bytes| bytes <= tensor.storage().0.len());
        let Some(nbytes) = nbytes else {
            return Err(
                Error::new(ErrorKind::Unsupported, "read", "a tensor").because("a marked sign on a repeating view")
            );
        };
        let mut out = self.storages.buffers.take(nbytes);
        tensor.copy_to(&mut out);
        for (number, part) in out.chunks_exact_mut(unit).enumerate() {
            let is_imaginary = is_complex && number % 2 == 1;
            // The sign is the highest bit of the last byte: everything is little-endian here.
            if signs.neg ^ (signs.conj && is_imaginary) {
                part[unit - 1] ^= 0x80;
            }
        }
        Tensor::from_bytes(dtype, tensor.shape(), out.freeze())
    }
}

fn bare(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, "read", "pickle").because(format_args!("{what} stands where a value should"))
}
