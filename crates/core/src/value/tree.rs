//! The tree an object decodes to.

use super::{DType, Tensor};

/// A decoded value: what Python's unpickling of the same object would give, without running any of it.
///
/// Equality is structural; floats compare by bits, so that NaN equals itself.
#[derive(Debug, Clone)]
pub enum Value {
    /// `None`.
    None,
    /// `bool`.
    Bool(bool),
    /// `int` within 64 bits.
    Int(i64),
    /// `int` beyond 64 bits: two's complement, little-endian, shortest form.
    BigInt(Vec<u8>),
    /// `float`.
    Float(f64),
    /// `complex`: real, imaginary.
    Complex(f64, f64),
    /// `str`.
    Str(String),
    /// `bytes` or `bytearray`.
    Bytes(bytes::Bytes),
    /// `list`.
    List(Vec<Value>),
    /// `tuple`.
    Tuple(Vec<Value>),
    /// `set` or `frozenset`, in the order stored.
    Set(Vec<Value>),
    /// `dict` or `OrderedDict`.
    Dict(Dict),
    /// `torch.Size`.
    Size(Vec<i64>),
    /// `torch.dtype`.
    DType(DType),
    /// `torch.device`, as its string.
    Device(String),
    /// `torch.Tensor` or `torch.nn.Parameter`.
    Tensor(Tensor),
}

/// Key and value pairs in insertion order; keys need not be strings and are unique as far as the writer kept them so.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dict {
    /// The pairs.
    pub items: Vec<(Value, Value)>,
    /// Whether it was a `collections.OrderedDict`.
    pub ordered: bool,
}

impl Dict {
    /// The value under a string key; the last one, as in Python, when a key repeats.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.items
            .iter()
            .rev()
            .find(|(name, _)| matches!(name, Value::Str(name) if name == key))
            .map(|(_, value)| value)
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Dict {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let items = pairs.into_iter().map(|(key, value)| (Value::Str(key.into()), value.into())).collect();
        Self { items, ordered: false }
    }
}

impl Value {
    /// Whether a tensor in this tree has to be unpacked.
    pub fn is_packed(&self) -> bool {
        match self {
            Value::Tensor(tensor) => tensor.is_packed(),
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => items.iter().any(Value::is_packed),
            Value::Dict(dict) => dict.items.iter().any(|(key, value)| key.is_packed() || value.is_packed()),
            _ => false,
        }
    }

    /// Bytes the tensors in this tree view, each counted once per use.
    pub fn tensor_bytes(&self) -> usize {
        match self {
            Value::Tensor(tensor) => tensor.nbytes(),
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => items.iter().map(Value::tensor_bytes).sum(),
            Value::Dict(dict) => dict.items.iter().map(|(_, value)| value.tensor_bytes()).sum(),
            _ => 0,
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        use Value as V;
        match (self, other) {
            (V::None, V::None) => true,
            (V::Bool(a), V::Bool(b)) => a == b,
            (V::Int(a), V::Int(b)) => a == b,
            (V::BigInt(a), V::BigInt(b)) => a == b,
            (V::Float(a), V::Float(b)) => a.to_bits() == b.to_bits(),
            (V::Complex(a, b), V::Complex(c, d)) => (a.to_bits(), b.to_bits()) == (c.to_bits(), d.to_bits()),
            (V::Str(a), V::Str(b)) | (V::Device(a), V::Device(b)) => a == b,
            (V::Bytes(a), V::Bytes(b)) => a == b,
            (V::List(a), V::List(b)) | (V::Tuple(a), V::Tuple(b)) | (V::Set(a), V::Set(b)) => a == b,
            (V::Dict(a), V::Dict(b)) => a == b,
            (V::Size(a), V::Size(b)) => a == b,
            (V::DType(a), V::DType(b)) => a == b,
            (V::Tensor(a), V::Tensor(b)) => a == b,
            _ => false,
        }
    }
}

macro_rules! from {
    ($($from:ty => |$it:ident| $make:expr;)*) => {
        $(impl From<$from> for Value { fn from($it: $from) -> Self { $make } })*
    };
}

from! {
    bool => |it| Value::Bool(it);
    i64 => |it| Value::Int(it);
    f64 => |it| Value::Float(it);
    &str => |it| Value::Str(it.to_owned());
    String => |it| Value::Str(it);
    Tensor => |it| Value::Tensor(it);
    Dict => |it| Value::Dict(it);
    Vec<Value> => |it| Value::List(it);
}
