//! What a batch will look like: a tree whose tensors have a buffer each, yet to be filled.

use smallvec::smallvec;

use super::{Collation, pad};
use crate::buffer::{Buffer, BufferPool};
use crate::error::{Error, ErrorKind, Result};
use crate::value::{DType, Dict, Dims, Packed, Tensor, Value};

/// A tensor of the batch and what goes into it.
pub(super) struct Leaf<'a> {
    pub(super) dtype: DType,
    pub(super) shape: Dims,
    pub(super) buffer: Buffer,
    /// One per sample, in order; each fills an equal part of the buffer.
    pub(super) rows: Vec<&'a Tensor>,
    /// Whether rows may be smaller than their part, which is then filled up with zeros.
    pub(super) is_padded: bool,
}

impl Leaf<'_> {
    pub(super) fn into_tensor(self) -> Result<Tensor> {
        Tensor::from_bytes(self.dtype, &self.shape, self.buffer.freeze())
    }

    /// Bytes of one row's part.
    pub(super) fn row_bytes(&self) -> usize {
        self.buffer.len() / self.rows.len().max(1)
    }
}

/// The tree of a batch; tensors are numbers of leaves.
#[derive(Debug)]
pub(super) enum Node {
    Leaf(usize),
    Plain(Value),
    List(Vec<Node>),
    Dict { items: Vec<(Value, Node)>, ordered: bool },
}

impl Node {
    pub(super) fn into_value(self, leaves: &[Tensor]) -> Value {
        match self {
            Node::Leaf(number) => Value::Tensor(leaves[number].clone()),
            Node::Plain(value) => value,
            Node::List(nodes) => Value::List(nodes.into_iter().map(|node| node.into_value(leaves)).collect()),
            Node::Dict { items, ordered } => {
                let items = items.into_iter().map(|(key, node)| (key, node.into_value(leaves))).collect();
                Value::Dict(Dict { items, ordered })
            }
        }
    }
}

/// Walks the values of all samples side by side.
pub(super) struct Planner<'a, 'b> {
    collation: Collation,
    buffers: &'b BufferPool,
    key_of: &'b dyn Fn(usize) -> String,
    leaves: Vec<Leaf<'a>>,
    /// Where in the sample we are, for messages.
    path: Vec<String>,
}

impl<'a, 'b> Planner<'a, 'b> {
    pub(super) fn new(collation: Collation, buffers: &'b BufferPool, key_of: &'b dyn Fn(usize) -> String) -> Self {
        Self { collation, buffers, key_of, leaves: Vec::new(), path: Vec::new() }
    }

    pub(super) fn into_leaves(self) -> Vec<Leaf<'a>> {
        self.leaves
    }

    /// A named value, and the mask that stands beside it when it is padded.
    pub(super) fn named(&mut self, name: &str, rows: &[&'a Value]) -> Result<Vec<(String, Node)>> {
        self.path.push(name.to_owned());
        let mut made = vec![(name.to_owned(), self.node(rows)?)];
        self.path.pop();
        if self.collation == Collation::Pad
            && let Some(mask) = pad::mask(rows, self.buffers)?
        {
            made.push((format!("{name}__mask"), Node::Plain(Value::Tensor(mask))));
        }
        Ok(made)
    }

    fn node(&mut self, rows: &[&'a Value]) -> Result<Node> {
        match rows.first() {
            Some(Value::Tensor(_)) => self.tensors(rows),
            Some(Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Complex(..)) => self.numbers(rows),
            Some(Value::Dict(first)) => self.dicts(first, rows),
            Some(Value::List(first) | Value::Tuple(first)) => self.lists(first.len(), rows),
            Some(Value::Size(first)) => self.sizes(first.len(), rows),
            Some(Value::None) if rows.iter().all(|row| matches!(row, Value::None)) => Ok(Node::Plain(Value::None)),
            Some(Value::None) => self.differ(rows, |row| matches!(row, Value::None), "some are None"),
            _ => self.as_list(rows),
        }
    }

    fn tensors(&mut self, rows: &[&'a Value]) -> Result<Node> {
        let tensors = self.all(rows, |row| if let Value::Tensor(tensor) = row { Some(tensor) } else { None })?;
        if self.collation == Collation::List {
            return Ok(Node::List(
                tensors.into_iter().map(|tensor| self.leaf(vec![tensor], tensor.shape().into())).collect(),
            ));
        }
        let first = tensors[0];
        if let Some(row) = tensors.iter().position(|tensor| tensor.dtype() != first.dtype()) {
            return self.mismatch(&tensors, row, "convert them to one dtype");
        }
        let is_padded = self.collation == Collation::Pad;
        let fits = |tensor: &&Tensor| {
            if is_padded { tensor.shape().len() == first.shape().len() } else { tensor.shape() == first.shape() }
        };
        if let Some(row) = tensors.iter().position(|tensor| !fits(tensor)) {
            let hint = if is_padded {
                "padding needs equally many dimensions: use collate=\"list\""
            } else {
                "use collate=\"pad\" or \"list\", or put samples of one shape together (buckets)"
            };
            return self.mismatch(&tensors, row, hint);
        }
        let mut shape: Dims = smallvec![tensors.len()];
        shape.extend(if is_padded { pad::largest(&tensors) } else { first.shape().into() });
        Ok(self.leaf(tensors, shape))
    }

    fn leaf(&mut self, rows: Vec<&'a Tensor>, shape: Dims) -> Node {
        let dtype = rows[0].dtype();
        let buffer = self.buffers.take(shape.iter().product::<usize>() * dtype.size());
        self.leaves.push(Leaf { dtype, shape, buffer, rows, is_padded: self.collation == Collation::Pad });
        Node::Leaf(self.leaves.len() - 1)
    }

    /// Numbers become a one-dimensional tensor: of the widest kind among them.
    fn numbers(&mut self, rows: &[&'a Value]) -> Result<Node> {
        if self.collation == Collation::List {
            return self.as_list(rows);
        }
        let kinds = self.all(rows, kind_of)?;
        let dtype =
            [DType::C128, DType::F64, DType::I64].into_iter().find(|kind| kinds.contains(kind)).unwrap_or(DType::Bool);
        let mut buffer = self.buffers.take(rows.len() * dtype.size());
        for (row, out) in rows.iter().zip(buffer.chunks_exact_mut(dtype.size())) {
            write_number(row, dtype, out);
        }
        Tensor::from_bytes(dtype, &[rows.len()], buffer.freeze()).map(|tensor| Node::Plain(Value::Tensor(tensor)))
    }

    fn dicts(&mut self, first: &'a Dict, rows: &[&'a Value]) -> Result<Node> {
        let dicts = self.all(rows, |row| if let Value::Dict(dict) = row { Some(dict) } else { None })?;
        let mut items = Vec::with_capacity(first.items.len());
        let mut below = Vec::with_capacity(rows.len());
        for (number, (key, _)) in first.items.iter().enumerate() {
            below.clear();
            for (row, dict) in dicts.iter().enumerate() {
                match entry(dict, number, key) {
                    Some(value) if dict.items.len() == first.items.len() => below.push(value),
                    _ => return self.keys_differ(first, dict, row),
                }
            }
            match key {
                Value::Str(name) => {
                    items.extend(self.named(name, &below)?.into_iter().map(|(name, node)| (Value::Str(name), node)));
                }
                other => items.push((other.clone(), self.node(&below)?)),
            }
        }
        Ok(Node::Dict { items, ordered: first.ordered })
    }

    fn lists(&mut self, len: usize, rows: &[&'a Value]) -> Result<Node> {
        let lists = self.all(rows, |row| match row {
            Value::List(items) | Value::Tuple(items) => Some(items),
            _ => None,
        })?;
        if let Some(row) = lists.iter().position(|items| items.len() != len) {
            let reason =
                format!("sample `{}` has {} entries, sample `{}` {len}", self.key(row), lists[row].len(), self.key(0));
            return Err(self.error(reason));
        }
        let column = |at: usize| lists.iter().map(|items| &items[at]).collect::<Vec<_>>();
        (0..len).map(|at| self.node(&column(at))).collect::<Result<_>>().map(Node::List)
    }

    /// A `torch.Size` is a tuple of integers.
    fn sizes(&mut self, len: usize, rows: &[&'a Value]) -> Result<Node> {
        let sizes = self.all(rows, |row| if let Value::Size(size) = row { Some(size) } else { None })?;
        if sizes.iter().any(|size| size.len() != len) || self.collation == Collation::List {
            return self.as_list(rows);
        }
        let column = |at: usize| {
            let bytes: Vec<u8> = sizes.iter().flat_map(|size| size[at].to_le_bytes()).collect();
            Tensor::from_bytes(DType::I64, &[sizes.len()], bytes.into())
                .map(|tensor| Node::Plain(Value::Tensor(tensor)))
        };
        (0..len).map(column).collect::<Result<_>>().map(Node::List)
    }

    /// The values themselves, in memory of their own.
    fn as_list(&self, rows: &[&Value]) -> Result<Node> {
        let own = |row: &Value| {
            let has_tensors = row.tensor_bytes() > 0;
            if has_tensors { Ok(Packed::new(row, self.buffers)?.into_value()) } else { Ok(row.clone()) }
        };
        rows.iter().map(|&row| own(row)).collect::<Result<_>>().map(|rows| Node::Plain(Value::List(rows)))
    }

    fn all<T>(&self, rows: &[&'a Value], pick: impl Fn(&'a Value) -> Option<T>) -> Result<Vec<T>> {
        let picked: Vec<_> = rows.iter().map_while(|row| pick(row)).collect();
        if picked.len() == rows.len() {
            return Ok(picked);
        }
        self.differ(rows, |row| pick(row).is_some(), "they are of different kinds")
    }

    fn key(&self, row: usize) -> String {
        (self.key_of)(row)
    }

    fn error(&self, reason: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Invalid, "collate", self.path.join(".")).because(reason)
    }

    fn differ<T>(&self, rows: &[&'a Value], like_first: impl Fn(&'a Value) -> bool, what: &str) -> Result<T> {
        let other = rows.iter().position(|row| !like_first(row)).unwrap_or_default();
        Err(self.error(format_args!(
            "{what}: sample `{}` has {}, sample `{}` {}",
            self.key(other),
            describe(rows[other]),
            self.key(0),
            describe(rows[0])
        )))
    }

    fn mismatch<T>(&self, tensors: &[&Tensor], row: usize, hint: &str) -> Result<T> {
        Err(self.error(format_args!(
            "sample `{}` has {:?}, sample `{}` {:?}; {hint}",
            self.key(row),
            tensors[row],
            self.key(0),
            tensors[0]
        )))
    }

    fn keys_differ<T>(&self, first: &Dict, dict: &Dict, row: usize) -> Result<T> {
        let only = |a: &Dict, b: &Dict| {
            let missing = a.items.iter().find(|(key, _)| !b.items.iter().any(|(other, _)| other == key));
            missing.map(|(key, _)| describe(key))
        };
        let (key, has, lacks) = match (only(first, dict), only(dict, first)) {
            (Some(key), _) => (key, 0, row),
            (None, key) => (key.unwrap_or_default(), row, 0),
        };
        Err(self.error(format_args!("sample `{}` has {key}, sample `{}` has not", self.key(has), self.key(lacks))))
    }
}

/// The value under a key: nearly always at the same place as in the first sample.
fn entry<'a>(dict: &'a Dict, number: usize, key: &Value) -> Option<&'a Value> {
    let (found, value) = dict.items.get(number)?;
    if found == key {
        return Some(value);
    }
    dict.items.iter().find(|(found, _)| found == key).map(|(_, value)| value)
}

fn kind_of(number: &Value) -> Option<DType> {
    match number {
        Value::Bool(_) => Some(DType::Bool),
        Value::Int(_) => Some(DType::I64),
        Value::Float(_) => Some(DType::F64),
        Value::Complex(..) => Some(DType::C128),
        _ => None,
    }
}

fn write_number(number: &Value, dtype: DType, out: &mut [u8]) {
    let real = match *number {
        Value::Bool(it) => f64::from(u8::from(it)),
        Value::Int(it) => it as f64,
        Value::Float(it) | Value::Complex(it, _) => it,
        _ => 0.0,
    };
    match (dtype, number) {
        (DType::Bool, _) => out[0] = u8::from(real != 0.0),
        (DType::I64, &Value::Int(it)) => out.copy_from_slice(&it.to_le_bytes()),
        (DType::I64, _) => out.copy_from_slice(&(real as i64).to_le_bytes()),
        (DType::F64, _) => out.copy_from_slice(&real.to_le_bytes()),
        _ => {
            let imaginary = if let Value::Complex(_, it) = *number { it } else { 0.0 };
            out[..8].copy_from_slice(&real.to_le_bytes());
            out[8..].copy_from_slice(&imaginary.to_le_bytes());
        }
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Tensor(tensor) => format!("{tensor:?}"),
        Value::Str(text) => format!("{text:?}"),
        Value::Dict(dict) => format!("a dict of {}", dict.items.len()),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => format!("a list of {}", items.len()),
        other => format!("{other:?}"),
    }
}
