//! The tree of a record: a tag per node, numbers in seven bits per byte.

use bytes::Bytes;

use super::damaged;
use crate::codec::tensor::block_bytes;
use crate::error::Result;
use crate::value::{DType, Dict, Dims, Tensor, Value};

/// Nodes of every kind but tensors; the numbers are the format's.
mod tag {
    pub(super) const NONE: u8 = 0;
    pub(super) const FALSE: u8 = 1;
    pub(super) const TRUE: u8 = 2;
    pub(super) const INT: u8 = 3;
    pub(super) const BIG_INT: u8 = 4;
    pub(super) const FLOAT: u8 = 5;
    pub(super) const COMPLEX: u8 = 6;
    pub(super) const STR: u8 = 7;
    pub(super) const BYTES: u8 = 8;
    pub(super) const LIST: u8 = 9;
    pub(super) const TUPLE: u8 = 10;
    pub(super) const SET: u8 = 11;
    pub(super) const DICT: u8 = 12;
    pub(super) const ORDERED_DICT: u8 = 13;
    pub(super) const SIZE: u8 = 14;
    pub(super) const DTYPE: u8 = 15;
    pub(super) const DEVICE: u8 = 16;
    pub(super) const TENSOR: u8 = 17;
}

/// Deeper trees are nobody's.
const MAX_DEPTH: usize = 64;

/// Nodes that room is made for before they are read: a tree may tell of as many as it has bytes, and each takes many times that.
const ROOM_AT_FIRST: usize = 64;

/// What the tree says of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub(super) dtype: DType,
    pub(super) shape: Dims,
    /// `None` for row-major.
    pub(super) strides: Option<Dims>,
    /// Bytes of it once unpacked.
    pub(super) len: usize,
    /// Where it begins in the payload.
    pub(super) offset: usize,
    pub(super) is_coded: bool,
    pub(super) blocks: Vec<Block>,
}

/// A block in the payload, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// Bytes it takes there.
    pub(super) len: usize,
    /// Their xxh3-64.
    pub(super) checksum: u64,
}

/// Writes a tree; `tensor` says how each tensor lies.
pub(super) fn write(
    value: &Value,
    out: &mut Vec<u8>,
    tensor: &mut impl FnMut(&Tensor) -> Result<Layout>,
) -> Result<()> {
    let text = |out: &mut Vec<u8>, tag, bytes: &[u8]| {
        out.push(tag);
        number(out, bytes.len());
        out.extend_from_slice(bytes);
    };
    match value {
        Value::None => out.push(tag::NONE),
        Value::Bool(it) => out.push(if *it { tag::TRUE } else { tag::FALSE }),
        Value::Int(it) => {
            out.push(tag::INT);
            signed(out, *it);
        }
        Value::BigInt(bytes) => text(out, tag::BIG_INT, bytes),
        Value::Float(it) => {
            out.push(tag::FLOAT);
            out.extend_from_slice(&it.to_le_bytes());
        }
        Value::Complex(real, imaginary) => {
            out.push(tag::COMPLEX);
            out.extend_from_slice(&real.to_le_bytes());
            out.extend_from_slice(&imaginary.to_le_bytes());
        }
        Value::Str(it) => text(out, tag::STR, it.as_bytes()),
        Value::Bytes(bytes) => text(out, tag::BYTES, bytes),
        Value::List(items) => sequence(out, tag::LIST, items, tensor)?,
        Value::Tuple(items) => sequence(out, tag::TUPLE, items, tensor)?,
        Value::Set(items) => sequence(out, tag::SET, items, tensor)?,
        Value::Dict(dict) => {
            out.push(if dict.ordered { tag::ORDERED_DICT } else { tag::DICT });
            number(out, dict.items.len());
            for (key, item) in &dict.items {
                write(key, out, tensor)?;
                write(item, out, tensor)?;
            }
        }
        Value::Size(sizes) => {
            out.push(tag::SIZE);
            number(out, sizes.len());
            sizes.iter().for_each(|&size| signed(out, size));
        }
        Value::DType(dtype) => out.extend_from_slice(&[tag::DTYPE, code_of(*dtype)]),
        Value::Device(it) => text(out, tag::DEVICE, it.as_bytes()),
        Value::Tensor(it) => {
            out.push(tag::TENSOR);
            write_layout(&tensor(it)?, out);
        }
    }
    Ok(())
}

fn sequence(
    out: &mut Vec<u8>,
    tag: u8,
    items: &[Value],
    tensor: &mut impl FnMut(&Tensor) -> Result<Layout>,
) -> Result<()> {
    out.push(tag);
    number(out, items.len());
    items.iter().try_for_each(|item| write(item, out, tensor))
}

fn write_layout(layout: &Layout, out: &mut Vec<u8>) {
    out.extend_from_slice(&[
        code_of(layout.dtype),
        u8::from(layout.is_coded) | u8::from(layout.strides.is_some()) << 1,
    ]);
    number(out, layout.shape.len());
    layout.shape.iter().chain(layout.strides.iter().flatten()).for_each(|&size| number(out, size));
    number(out, layout.len);
    number(out, layout.offset);
    for block in &layout.blocks {
        if layout.is_coded {
            number(out, block.len);
        }
        out.extend_from_slice(&block.checksum.to_le_bytes());
    }
}

fn number(out: &mut Vec<u8>, mut rest: usize) {
    while rest > 0x7f {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Numbers near zero are short, whatever their sign.
fn signed(out: &mut Vec<u8>, it: i64) {
    number(out, ((it << 1) ^ (it >> 63)).cast_unsigned() as usize);
}

fn code_of(dtype: DType) -> u8 {
    DType::ALL.iter().position(|&other| other == dtype).unwrap_or(usize::MAX) as u8
}

/// Reads trees from bytes that may say anything.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// Reads one node and all below it; `tensor` makes one of each layout, whose blocks are `block_bytes` long.
    pub(super) fn value(&mut self, depth: usize, tensor: &mut impl FnMut(Layout) -> Result<Value>) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(damaged(format_args!("its tree is deeper than {MAX_DEPTH}")));
        }
        Ok(match self.byte()? {
            tag::NONE => Value::None,
            tag::FALSE => Value::Bool(false),
            tag::TRUE => Value::Bool(true),
            tag::INT => Value::Int(self.signed()?),
            tag::BIG_INT => Value::BigInt(self.text()?.to_vec()),
            tag::FLOAT => Value::Float(f64::from_le_bytes(self.array()?)),
            tag::COMPLEX => Value::Complex(f64::from_le_bytes(self.array()?), f64::from_le_bytes(self.array()?)),
            tag::STR => Value::Str(self.string()?),
            tag::BYTES => Value::Bytes(Bytes::copy_from_slice(self.text()?)),
            tag::LIST => Value::List(self.values(depth, tensor)?),
            tag::TUPLE => Value::Tuple(self.values(depth, tensor)?),
            tag::SET => Value::Set(self.values(depth, tensor)?),
            tag @ (tag::DICT | tag::ORDERED_DICT) => {
                let len = self.count()?;
                let mut items = Vec::with_capacity(len.min(ROOM_AT_FIRST));
                for _ in 0..len {
                    items.push((self.value(depth + 1, tensor)?, self.value(depth + 1, tensor)?));
                }
                Value::Dict(Dict { items, ordered: tag == tag::ORDERED_DICT })
            }
            tag::SIZE => {
                let len = self.count()?;
                Value::Size((0..len).map(|_| self.signed()).collect::<Result<_>>()?)
            }
            tag::DTYPE => Value::DType(self.dtype()?),
            tag::DEVICE => Value::Device(self.string()?),
            tag::TENSOR => {
                let layout = self.layout()?;
                tensor(layout)?
            }
            other => return Err(damaged(format_args!("its tree has a node of the unknown kind {other}"))),
        })
    }

    fn values(&mut self, depth: usize, tensor: &mut impl FnMut(Layout) -> Result<Value>) -> Result<Vec<Value>> {
        let len = self.count()?;
        let mut values = Vec::with_capacity(len.min(ROOM_AT_FIRST));
        for _ in 0..len {
            values.push(self.value(depth + 1, tensor)?);
        }
        Ok(values)
    }

    fn layout(&mut self) -> Result<Layout> {
        let dtype = self.dtype()?;
        let flags = self.byte()?;
        if flags > 3 {
            return Err(damaged("a tensor lies in an unknown way"));
        }
        let is_coded = flags & 1 != 0;
        let dims = self.count()?;
        let read = |reader: &mut Self| (0..dims).map(|_| reader.number()).collect::<Result<Dims>>();
        let shape = read(self)?;
        let strides = if flags & 2 != 0 { Some(read(self)?) } else { None };
        let (len, offset) = (self.number()?, self.number()?);
        let block = block_bytes(dtype.size());
        // Every block takes at least its checksum here, so that no length costs more memory than its record has.
        let count = len.div_ceil(block);
        if count > self.0.len() / 8 {
            return Err(damaged("a tensor has more blocks than there are"));
        }
        let mut blocks = Vec::with_capacity(count);
        for number in 0..count {
            let len = if is_coded { self.number()? } else { (len - number * block).min(block) };
            blocks.push(Block { len, checksum: u64::from_le_bytes(self.array()?) });
        }
        Ok(Layout { dtype, shape, strides, len, offset, is_coded, blocks })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(|| damaged("its tree ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(damaged)
    }

    fn number(&mut self) -> Result<usize> {
        let mut number = 0_u64;
        for place in 0..10 {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f).checked_shl(7 * place).unwrap_or_default();
            if byte & 0x80 == 0 {
                return usize::try_from(number).map_err(damaged);
            }
        }
        Err(damaged("its tree has a number of too many digits"))
    }

    /// How many follow: each takes a byte at least.
    fn count(&mut self) -> Result<usize> {
        let count = self.number()?;
        if count > self.0.len() {
            return Err(damaged("its tree tells of more nodes than it has"));
        }
        Ok(count)
    }

    fn signed(&mut self) -> Result<i64> {
        let number = self.number()? as u64;
        Ok((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
    }

    fn text(&mut self) -> Result<&'a [u8]> {
        let len = self.number()?;
        self.take(len)
    }

    fn string(&mut self) -> Result<String> {
        std::str::from_utf8(self.text()?).map(str::to_owned).map_err(damaged)
    }

    fn dtype(&mut self) -> Result<DType> {
        let code = self.byte()?;
        DType::ALL.get(usize::from(code)).copied().ok_or_else(|| damaged(format_args!("unknown dtype {code}")))
    }
}
