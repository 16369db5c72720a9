//! Values in memory of their own, laid out tightly: what a cache keeps.

use bytes::Bytes;

use super::{Dict, Value};
use crate::buffer::{BufferPool, capacity_for};
use crate::error::Result;

/// Tensors begin on a cache line, as vector instructions like it.
const ALIGNMENT: usize = 64;
/// What a node of the tree costs beside its tensor: enum, vector slots, allocator's overhead.
const NODE_BYTES: usize = 96;

/// A value whose tensors lie in one buffer that nothing else shares.
///
/// Each tensor keeps its shape, and its strides unless those skip memory. Tensors that shared memory before do not any more.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    value: Value,
    record: Option<Bytes>,
    bytes: usize,
}

impl Packed {
    /// Memory that packing a value would take, before rounding up to what a pool lends.
    pub fn bytes_for(value: &Value) -> usize {
        let mut bytes = 0;
        visit(value, &mut |node| {
            bytes += match node {
                Value::Tensor(tensor) => tensor.tight_len().next_multiple_of(ALIGNMENT),
                _ => 0,
            };
        });
        bytes
    }

    /// Copies a value's tensors into one buffer of `buffers`.
    ///
    /// # Errors
    /// `Corrupt` when a tensor is packed and damaged.
    pub fn new(value: &Value, buffers: &BufferPool) -> Result<Self> {
        let mut buffer = buffers.take(Self::bytes_for(value));
        let (mut at, mut copied) = (0, Ok(()));
        visit(value, &mut |node| {
            if let Value::Tensor(tensor) = node {
                let len = tensor.tight_len();
                if copied.is_ok() {
                    copied = tensor.copy_tight(&mut buffer[at..at + len]);
                }
                at += len.next_multiple_of(ALIGNMENT);
            }
        });
        copied?;
        let bytes = Self::charge(value, buffer.capacity());
        let memory = buffer.freeze();
        Ok(Self { value: place(value, &memory, &mut 0), record: None, bytes })
    }

    /// A value as it lies in the bytes of its object, if nothing else is in them to speak of. Nobody else may see these; they are a
    /// buffer's from its beginning.
    pub(crate) fn lying_in(value: &Value, object: &Bytes) -> Option<Self> {
        let (memory, within) = (capacity_for(object.len()), object.as_ptr_range());
        let mut lies_there = memory <= capacity_for(Self::bytes_for(value)) * 9 / 8;
        visit(value, &mut |node| {
            if let Value::Tensor(tensor) = node {
                lies_there &= !tensor.is_packed() && {
                    let bytes = tensor.storage().0.as_ptr_range();
                    within.start <= bytes.start && bytes.end <= within.end
                };
            }
        });
        lies_there.then(|| Self { value: value.clone(), record: None, bytes: Self::charge(value, memory) })
    }

    /// A value whose tensors lie in a packed record, which takes `memory` bytes.
    pub fn in_record(value: Value, record: Bytes, memory: usize) -> Self {
        let bytes = Self::charge(&value, memory);
        Self { value, record: Some(record), bytes }
    }

    /// The record that the value lies in, if it is one.
    pub fn record(&self) -> Option<&Bytes> {
        self.record.as_ref()
    }

    /// What a value takes whose tensors take `memory` bytes.
    pub(crate) fn charge(value: &Value, memory: usize) -> usize {
        let mut nodes = 0;
        visit(value, &mut |node| {
            nodes += NODE_BYTES
                + match node {
                    Value::Str(text) => text.len(),
                    Value::Bytes(bytes) => bytes.len(),
                    Value::BigInt(bytes) => bytes.len(),
                    _ => 0,
                };
        });
        memory + nodes
    }

    /// The value. Its tensors are views of memory that others may share: copy before handing them to a user.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The value, for whom nobody else will see the memory.
    pub fn into_value(self) -> Value {
        self.value
    }

    /// Memory it takes, all told.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Calls `with` for every node, parents first.
fn visit<'a>(value: &'a Value, with: &mut impl FnMut(&'a Value)) {
    with(value);
    match value {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => items.iter().for_each(|item| visit(item, with)),
        Value::Dict(dict) => dict.items.iter().for_each(|(key, item)| {
            visit(key, with);
            visit(item, with);
        }),
        _ => {}
    }
}

/// The same tree over other memory; tensors in the order of [`visit`].
fn place(value: &Value, memory: &Bytes, at: &mut usize) -> Value {
    match value {
        Value::Tensor(tensor) => {
            let start = *at;
            *at += tensor.tight_len().next_multiple_of(ALIGNMENT);
            Value::Tensor(tensor.tight_over(memory.clone(), start))
        }
        Value::Bytes(bytes) => Value::Bytes(Bytes::copy_from_slice(bytes)),
        Value::List(items) => Value::List(place_all(items, memory, at)),
        Value::Tuple(items) => Value::Tuple(place_all(items, memory, at)),
        Value::Set(items) => Value::Set(place_all(items, memory, at)),
        Value::Dict(dict) => {
            let pair = |(key, item): &(Value, Value)| (place(key, memory, at), place(item, memory, at));
            Value::Dict(Dict { items: dict.items.iter().map(pair).collect(), ordered: dict.ordered })
        }
        plain => plain.clone(),
    }
}

fn place_all(items: &[Value], memory: &Bytes, at: &mut usize) -> Vec<Value> {
    items.iter().map(|item| place(item, memory, at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{DType, Tensor};

    #[test]
    fn keeps_values_and_strides_in_memory_of_its_own() {
        let object: Bytes = (0..=255).collect::<Vec<u8>>().into();
        let view = |shape: &[usize], strides: &[usize], offset| {
            Value::Tensor(Tensor::new(DType::I16, shape, strides, object.clone(), offset).expect("tensor"))
        };
        let value = Value::Dict(Dict {
            items: vec![
                (Value::Str("transposed".into()), view(&[3, 2], &[1, 3], 6)),
                (Value::Str("expanded".into()), view(&[1_000_000], &[0], 8)),
                (Value::Str("skipping".into()), view(&[10], &[10], 0)),
                (
                    Value::Str("rest".into()),
                    Value::List(vec![view(&[0, 4], &[4, 1], 0), view(&[], &[], 2), Value::Int(3)]),
                ),
                (Value::Str("raw".into()), Value::Bytes(object.slice(3..9))),
            ],
            ordered: true,
        });
        let packed = Packed::new(&value, &BufferPool::new(0)).expect("copied");
        assert_eq!(packed.value(), &value);
        assert_eq!(Packed::bytes_for(&value), 4 * 64);
        assert!(packed.bytes() < 8192, "an expanded tensor is not blown up: {}", packed.bytes());
        visit(packed.value(), &mut |node| match node {
            Value::Tensor(tensor) => assert!(!object.as_ptr_range().contains(&tensor.storage().0.as_ptr())),
            Value::Bytes(bytes) => assert!(!object.as_ptr_range().contains(&bytes.as_ptr())),
            _ => {}
        });
    }
}
