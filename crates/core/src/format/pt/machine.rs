//! The pickle machine: data opcodes of protocols 2 to 5, on an arena.
//!
//! Values are nodes, named by their index, so that memoised containers can still grow. Each opcode adds at most one
//! node and every length is checked against the input before anything is copied: a pickle costs memory in proportion to its
//! own length, whatever it says. Names go through the allow-list of [`globals`]; an unknown one ends the run.

use std::cell::Cell;
use std::collections::HashMap;

use super::super::Limits;
use super::globals::{self, Global};
use crate::error::{Error, ErrorKind, Result};
use crate::value::{DType, Dims};

/// Index of a node.
pub(super) type Id = u32;

/// One value under construction.
#[derive(Debug)]
pub(super) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    BigInt(&'a [u8]),
    Float(f64),
    Complex(f64, f64),
    Str(&'a str),
    Bytes(bytes::Bytes),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Set(Vec<Id>),
    Dict {
        items: Vec<(Id, Id)>,
        ordered: bool,
    },
    Size(Vec<i64>),
    Device(String),
    Global(Global),
    Storage(StorageUse),
    /// Boxed: it is several times the size of any other node, and every node would be as large.
    Tensor(Box<TensorSpec>),
}

/// A storage, seen from element `base` on (only legacy files have views).
#[derive(Debug, Clone, Copy)]
pub(super) struct StorageUse {
    pub(super) storage: usize,
    pub(super) base: usize,
}

/// A tensor before its storage is at hand.
#[derive(Debug)]
pub(super) struct TensorSpec {
    pub(super) dtype: DType,
    pub(super) storage: usize,
    /// In bytes.
    pub(super) offset: usize,
    pub(super) shape: Dims,
    pub(super) strides: Dims,
    pub(super) signs: Signs,
}

/// Signs that are turned round when the tensor is read: of imaginary parts, of everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Signs {
    pub(super) conj: bool,
    pub(super) neg: bool,
}

/// A storage the pickle refers to.
#[derive(Debug)]
pub(super) struct StorageSpec<'a> {
    pub(super) key: &'a str,
    /// `None` for untyped storage, whose elements are bytes.
    pub(super) dtype: Option<DType>,
    pub(super) numel: usize,
}

/// A run over one pickle.
pub(super) struct Machine<'a> {
    input: &'a [u8],
    /// Where the pickle begins in its object, for messages.
    origin: usize,
    at: usize,
    opcode_at: usize,
    max_depth: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: Vec<Id>,
    pub(super) storages: Vec<StorageSpec<'a>>,
    /// Number of each storage in `storages`.
    known: HashMap<(&'a str, Option<DType>), usize>,
    /// Elements that may still be copied out of nodes: what is memoised once can be copied without end.
    copies: Cell<usize>,
}

/// Elements that may be copied for every byte of a pickle: torch writes more bytes than elements.
const COPIES_PER_BYTE: usize = 8;
const FEW_STORAGES: usize = 8;
const UNSET: Id = Id::MAX;
const HIGHEST_PROTOCOL: u8 = 5;
const MARKS_PER_LEVEL: usize = 4;
/// A dict of a few tensors and scalars fits without growing anything.
const USUAL_NODES: usize = 64;

impl<'a> Machine<'a> {
    pub(super) fn new(input: &'a [u8], origin: usize, limits: &Limits) -> Self {
        Self {
            input,
            origin,
            at: 0,
            opcode_at: 0,
            max_depth: limits.max_depth,
            nodes: Vec::with_capacity(USUAL_NODES),
            stack: Vec::with_capacity(USUAL_NODES),
            marks: Vec::new(),
            memo: Vec::with_capacity(USUAL_NODES),
            storages: Vec::new(),
            known: HashMap::new(),
            copies: Cell::new((input.len() + USUAL_NODES).saturating_mul(COPIES_PER_BYTE)),
        }
    }

    /// Runs to the end of the pickle and returns the node it leaves.
    pub(super) fn run(&mut self) -> Result<Id> {
        loop {
            self.opcode_at = self.at;
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    /// Bytes of input used so far.
    pub(super) fn consumed(&self) -> usize {
        self.at
    }

    pub(super) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id as usize]
    }

    pub(super) fn add(&mut self, node: Node<'a>) -> Result<Id> {
        let id = Id::try_from(self.nodes.len()).ok().filter(|&id| id != UNSET);
        let Some(id) = id else { return self.refuse("too many values") };
        self.nodes.push(node);
        Ok(id)
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            0x80 => self.protocol(),
            0x95 => self.take(8).map(drop), // FRAME: its length is of no use to a reader in memory
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'J' => self.array().and_then(|bytes| self.push(Node::Int(i32::from_le_bytes(bytes).into()))),
            b'K' => self.byte().and_then(|byte| self.push(Node::Int(byte.into()))),
            b'M' => self.array().and_then(|bytes| self.push(Node::Int(u16::from_le_bytes(bytes).into()))),
            0x8a => self.byte().and_then(|len| self.long(len.into())),
            0x8b => self.length::<4>().and_then(|len| self.long(len)),
            b'G' => self.array().and_then(|bytes| self.push(Node::Float(f64::from_be_bytes(bytes)))),
            b'X' | b'T' => self.length::<4>().and_then(|len| self.text(len)),
            0x8c | b'U' => self.length::<1>().and_then(|len| self.text(len)),
            0x8d => self.length::<8>().and_then(|len| self.text(len)),
            b'B' => self.length::<4>().and_then(|len| self.bytes(len)),
            b'C' => self.length::<1>().and_then(|len| self.bytes(len)),
            0x8e | 0x96 => self.length::<8>().and_then(|len| self.bytes(len)),
            b'q' => self.byte().and_then(|index| self.memoize(index.into())),
            b'r' => self.length::<4>().and_then(|index| self.memoize(index)),
            0x94 => self.memoize(self.memo.len()),
            b'h' => self.byte().and_then(|index| self.recall(index.into())),
            b'j' => self.length::<4>().and_then(|index| self.recall(index)),
            _ => self.step_containers(opcode),
        }
    }

    fn step_containers(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            b'(' => self.mark(),
            b'0' => self.pop().map(drop),
            b'1' => self.pop_mark().map(drop),
            b'2' => self.top().map(|id| self.stack.push(id)),
            b']' => self.push(Node::List(Vec::new())),
            b')' => self.push(Node::Tuple(Vec::new())),
            b'}' => self.push(Node::Dict { items: Vec::new(), ordered: false }),
            0x8f => self.push(Node::Set(Vec::new())),
            b'l' => self.pop_mark().and_then(|items| self.push(Node::List(items))),
            b't' => self.pop_mark().and_then(|items| self.push(Node::Tuple(items))),
            0x91 => self.pop_mark().and_then(|items| self.push(Node::Set(items))),
            0x85..=0x87 => self.pop_many(usize::from(opcode - 0x84)).and_then(|items| self.push(Node::Tuple(items))),
            b'd' => self.pop_mark().and_then(|flat| {
                let items = self.pairs(&flat)?;
                self.push(Node::Dict { items, ordered: false })
            }),
            b'a' => self.pop_many(1).and_then(|items| self.extend(&items)),
            b'e' | 0x90 => self.pop_mark().and_then(|items| self.extend(&items)),
            b's' => self.pop_many(2).and_then(|flat| self.set_items(&flat)),
            b'u' => self.pop_mark().and_then(|flat| self.set_items(&flat)),
            b'c' => self.global_of_lines(),
            0x93 => self.global_of_stack(),
            b'R' | 0x81 => self.reduce(),
            b'b' => self.build(),
            b'Q' => self.persistent(),
            _ => {
                let reason = format!("opcode 0x{opcode:02x} is not one that torch writes");
                Err(self.error(ErrorKind::Unsupported).because(reason))
            }
        }
    }

    fn protocol(&mut self) -> Result<()> {
        let version = self.byte()?;
        if version > HIGHEST_PROTOCOL {
            return Err(self.error(ErrorKind::Unsupported).because(format_args!("pickle protocol {version}")));
        }
        Ok(())
    }

    fn long(&mut self, len: usize) -> Result<()> {
        let mut bytes = self.take(len)?;
        // The shortest form: drop bytes that only repeat the sign.
        while let [rest @ .., below, last] = bytes
            && (*last == 0 && *below < 0x80 || *last == 0xFF && *below >= 0x80)
        {
            bytes = &bytes[..=rest.len()];
        }
        if bytes.len() > 8 {
            return self.push(Node::BigInt(bytes));
        }
        let sign = if bytes.last().is_some_and(|&last| last >= 0x80) { 0xFF } else { 0 };
        let mut wide = [sign; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self, len: usize) -> Result<()> {
        let bytes = self.take(len)?;
        match str::from_utf8(bytes) {
            Ok(text) => self.push(Node::Str(text)),
            Err(_) => self.refuse("text that is not UTF-8"),
        }
    }

    fn bytes(&mut self, len: usize) -> Result<()> {
        let bytes = bytes::Bytes::copy_from_slice(self.take(len)?);
        self.push(Node::Bytes(bytes))
    }

    fn memoize(&mut self, index: usize) -> Result<()> {
        let top = self.top()?;
        // A pickler counts memo entries up, so an index beyond the input's length was made up.
        if index >= self.input.len() {
            return self.refuse(format_args!("memo entry {index} in a pickle of {} bytes", self.input.len()));
        }
        if index >= self.memo.len() {
            self.memo.resize(index + 1, UNSET);
        }
        self.memo[index] = top;
        Ok(())
    }

    fn recall(&mut self, index: usize) -> Result<()> {
        match self.memo.get(index) {
            Some(&id) if id != UNSET => self.stack.push(id),
            _ => return self.refuse(format_args!("memo entry {index} was never made")),
        }
        Ok(())
    }

    fn mark(&mut self) -> Result<()> {
        // Open marks are unfinished containers: a nested value has a few per level, a bomb has millions.
        if self.marks.len() >= MARKS_PER_LEVEL * self.max_depth {
            return self.unsupported(format_args!("values nest deeper than {}", self.max_depth));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn extend(&mut self, items: &[Id]) -> Result<()> {
        let onto = self.top()?;
        match &mut self.nodes[onto as usize] {
            Node::List(list) | Node::Set(list) => list.extend_from_slice(items),
            _ => return self.refuse("items for something that is no list or set"),
        }
        Ok(())
    }

    fn set_items(&mut self, flat: &[Id]) -> Result<()> {
        let pairs = self.pairs(flat)?;
        let onto = self.top()?;
        match &mut self.nodes[onto as usize] {
            Node::Dict { items, .. } => items.extend(pairs),
            _ => return self.refuse("items for something that is no dict"),
        }
        Ok(())
    }

    fn pairs(&self, flat: &[Id]) -> Result<Vec<(Id, Id)>> {
        let (pairs, rest) = flat.as_chunks::<2>();
        if !rest.is_empty() {
            return self.refuse("a dict key without value");
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    fn global_of_lines(&mut self) -> Result<()> {
        let (module, name) = (self.line()?, self.line()?);
        self.global(module, name)
    }

    fn global_of_stack(&mut self) -> Result<()> {
        let ids = self.pop_many(2)?;
        match (self.node(ids[0]), self.node(ids[1])) {
            (Node::Str(module), Node::Str(name)) => self.global(module, name),
            _ => self.refuse("a global whose name is no text"),
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        if let Some(global) = globals::find(module, name) {
            return self.push(Node::Global(global));
        }
        let shown: String = format!("{module}.{name}").escape_debug().take(120).collect();
        Err(self.error(ErrorKind::Unsupported).because(format_args!(
            "it refers to `{shown}`, which is not on the list of what a `.pt` of tensors may contain; nothing was executed"
        )))
    }

    fn reduce(&mut self) -> Result<()> {
        let ids = self.pop_many(2)?;
        let (Node::Global(global), Node::Tuple(arguments)) = (self.node(ids[0]), self.node(ids[1])) else {
            return self.refuse("a call of something that cannot be called");
        };
        self.charge(arguments.len())?;
        let (global, arguments) = (*global, arguments.clone());
        let made = globals::call(self, global, &arguments)?;
        self.stack.push(made);
        Ok(())
    }

    /// State that is set on an object. Attributes of an `OrderedDict` (a module's `_metadata`) are not part of its value.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let onto = self.top()?;
        let empty = match self.node(state) {
            Node::None => true,
            Node::Dict { items, .. } => items.is_empty(),
            _ => false,
        };
        if empty || matches!(self.node(onto), Node::Dict { ordered: true, .. }) {
            return Ok(());
        }
        Err(self.error(ErrorKind::Unsupported).because("an object with attributes"))
    }

    /// `('storage', class, key, location, numel)`, with the view of legacy files behind.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let parts @ ([_, _, _, _, _] | [_, _, _, _, _, _]) = self.items_of(id)? else {
            return self.refuse("a reference to something that is no storage");
        };
        let Node::Global(Global::Storage(dtype)) = *self.node(parts[1]) else {
            return self.refuse("a storage of an unknown class");
        };
        if self.str_of(parts[0])? != "storage" {
            return self.refuse("a reference to something that is no storage");
        }
        let base = match parts.get(5).map(|&view| self.node(view)) {
            None | Some(Node::None) => 0,
            Some(Node::Tuple(view)) if view.len() == 3 => self.size_from(self.int_of(view[1])?)?,
            Some(_) => return self.refuse("a storage view that is none"),
        };
        let numel = self.size_from(self.int_of(parts[4])?)?;
        let key = self.node_str(parts[2])?;
        self.charge(key.len())?;
        let next = self.storages.len();
        let storage = self.number_of(key, dtype);
        if storage == next {
            self.storages.push(StorageSpec { key, dtype, numel });
        }
        self.push(Node::Storage(StorageUse { storage, base }))
    }

    /// Number of a storage, the next one if it is new.
    fn number_of(&mut self, key: &'a str, dtype: Option<DType>) -> usize {
        let next = self.storages.len();
        // Looking through a few takes less than hashing; of many there may be very many.
        if next < FEW_STORAGES {
            let known = self.storages.iter().position(|known| known.key == key && known.dtype == dtype);
            return known.unwrap_or(next);
        }
        if self.known.is_empty() {
            let numbered = self.storages.iter().enumerate();
            self.known = numbered.map(|(number, known)| ((known.key, known.dtype), number)).collect();
        }
        *self.known.entry((key, dtype)).or_insert(next)
    }

    // ---- reading nodes

    pub(super) fn items_of(&self, id: Id) -> Result<&[Id]> {
        match self.node(id) {
            Node::List(items) | Node::Tuple(items) | Node::Set(items) => Ok(items),
            _ => self.refuse("no sequence where one belongs"),
        }
    }

    pub(super) fn copied_items(&self, id: Id) -> Result<Vec<Id>> {
        let items = self.items_of(id)?;
        self.charge(items.len())?;
        Ok(items.to_vec())
    }

    /// Counts elements that are about to be copied out of a node.
    pub(super) fn charge(&self, elements: usize) -> Result<()> {
        match self.copies.get().checked_sub(elements) {
            Some(left) => {
                self.copies.set(left);
                Ok(())
            }
            None => self.unsupported("it repeats its values far beyond its own length"),
        }
    }

    pub(super) fn int_of(&self, id: Id) -> Result<i64> {
        match *self.node(id) {
            Node::Int(number) => Ok(number),
            _ => self.refuse("no integer where one belongs"),
        }
    }

    pub(super) fn ints_of(&self, id: Id) -> Result<Vec<i64>> {
        if let Node::Size(sizes) = self.node(id) {
            self.charge(sizes.len())?;
            return Ok(sizes.clone());
        }
        self.charge(self.items_of(id)?.len())?;
        self.items_of(id)?.iter().map(|&item| self.int_of(item)).collect()
    }

    pub(super) fn float_of(&self, id: Id) -> Result<f64> {
        match *self.node(id) {
            Node::Float(number) => Ok(number),
            _ => self.refuse("no float where one belongs"),
        }
    }

    pub(super) fn str_of(&self, id: Id) -> Result<&str> {
        self.node_str(id)
    }

    pub(super) fn node_str(&self, id: Id) -> Result<&'a str> {
        match self.node(id) {
            Node::Str(text) => Ok(text),
            _ => self.refuse("no text where some belongs"),
        }
    }

    pub(super) fn size_from(&self, number: i64) -> Result<usize> {
        usize::try_from(number).or_else(|_| self.refuse(format_args!("a size of {number}")))
    }

    // ---- stack

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id> {
        match self.stack[self.floor()..].last() {
            Some(&id) => Ok(id),
            None => self.refuse("it takes a value where there is none"),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>> {
        let from = self.stack.len().checked_sub(count).filter(|&from| from >= self.floor());
        match from {
            Some(from) => Ok(self.stack.split_off(from)),
            None => self.refuse("it takes values where there are none"),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => self.refuse("it goes back to a mark that was never set"),
        }
    }

    // ---- input

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let taken = self.at.checked_add(len).and_then(|end| self.input.get(self.at..end));
        let Some(taken) = taken else {
            return self.refuse(format_args!("it ends where {len} bytes should follow"));
        };
        self.at += len;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn length<const N: usize>(&mut self) -> Result<usize> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.take(N)?);
        usize::try_from(u64::from_le_bytes(wide)).or_else(|_| self.refuse("an absurd length"))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.input[self.at..];
        let Some(len) = rest.iter().position(|&byte| byte == b'\n') else {
            return self.refuse("a line without end");
        };
        let line = self.take(len + 1)?;
        str::from_utf8(&line[..len]).or_else(|_| self.refuse("a name that is not UTF-8"))
    }

    fn error(&self, kind: ErrorKind) -> Error {
        Error::new(kind, "read", format_args!("pickle at offset {}", self.origin + self.opcode_at))
    }

    pub(super) fn unsupported<T>(&self, reason: impl std::fmt::Display) -> Result<T> {
        Err(self.error(ErrorKind::Unsupported).because(reason))
    }

    pub(super) fn refuse<T>(&self, reason: impl std::fmt::Display) -> Result<T> {
        Err(self.error(ErrorKind::Corrupt).because(reason))
    }
}
