//! Writing `.pt` files that `torch.load(weights_only=True)` reads back bit for bit.
//!
//! The layout is torch's own: `data.pkl` under protocol 2, byte order, storages stored and aligned to 64 bytes, version 3.
//! Tensors that view the same bytes share a storage.

use std::collections::HashMap;

use super::super::Limits;
use crate::error::{Error, ErrorKind, Result};
use crate::value::{DType, Dict, Tensor, Value};

const ALIGNMENT: usize = 64;
/// Beyond this a zip needs its 64-bit fields, and an object of that size is no sample.
const MAX_LEN: usize = u32::MAX as usize;
/// The 1st of January 1980, the first day that a zip knows; torch writes no date either.
const DOS_DATE: u16 = 0x21;
const UTF8_NAMES: u16 = 0x0800;
/// The extra field that torch pads with.
const PADDING_FIELD: [u8; 2] = *b"FB";

/// Writes a value as a `.pt` file. Dict and set members keep their order; non-contiguous tensors keep their strides.
///
/// # Errors
/// `Unsupported` when the file would exceed 4 GiB, or when the value nests deeper than the reader accepts.
pub fn write_pt(value: &Value) -> Result<Vec<u8>> {
    let max_depth = Limits::default().max_depth;
    if nests_deeper(value, max_depth) {
        return Err(Error::new(ErrorKind::Unsupported, "write", "a .pt file")
            .because(format_args!("its values nest deeper than {max_depth}")));
    }
    let mut pickler = Pickler { out: vec![0x80, 2], storages: Vec::new(), known: HashMap::new() };
    pickler.value(value);
    pickler.out.push(b'.');
    let len: usize = pickler.storages.iter().map(|storage| storage.bytes().len() + 256).sum();
    if len + pickler.out.len() + 4096 > MAX_LEN {
        return Err(Error::new(ErrorKind::Unsupported, "write", "a .pt file").because("it would exceed 4 GiB"));
    }
    let mut zip = Zip { out: Vec::with_capacity(len + pickler.out.len() + 4096), directory: Vec::new(), entries: 0 };
    zip.add("archive/data.pkl", &pickler.out);
    zip.add("archive/byteorder", b"little");
    for (number, storage) in pickler.storages.iter().enumerate() {
        zip.add(&format!("archive/data/{number}"), storage.bytes());
    }
    zip.add("archive/version", b"3\n");
    Ok(zip.finish())
}

/// Whether a value has more containers within each other than `depth`.
fn nests_deeper(value: &Value, depth: usize) -> bool {
    let within = |value: &Value| nests_deeper(value, depth - 1);
    match value {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => depth == 0 || items.iter().any(within),
        Value::Dict(dict) => depth == 0 || dict.items.iter().any(|(key, value)| within(key) || within(value)),
        _ => false,
    }
}

/// The bytes behind one or more tensors of one dtype, by the first of them.
struct Stored {
    tensor: Tensor,
}

impl Stored {
    fn bytes(&self) -> &[u8] {
        self.tensor.storage().0
    }
}

struct Pickler {
    out: Vec<u8>,
    storages: Vec<Stored>,
    /// Number of each storage, by where its bytes lie and their dtype.
    known: HashMap<((usize, usize), DType), usize>,
}

impl Pickler {
    fn value(&mut self, value: &Value) {
        match value {
            Value::None => self.out.push(b'N'),
            Value::Bool(it) => self.out.push(if *it { 0x88 } else { 0x89 }),
            Value::Int(it) => self.int(*it),
            Value::BigInt(it) => self.long(it),
            Value::Float(it) => self.float(*it),
            Value::Complex(real, imaginary) => {
                self.global("__builtin__", "complex");
                self.float(*real);
                self.float(*imaginary);
                self.out.extend_from_slice(&[0x86, b'R']);
            }
            Value::Str(it) => self.text(it),
            Value::Bytes(it) => self.bytes(it),
            Value::List(items) => self.list(items),
            Value::Tuple(items) => self.tuple(|this| items.iter().for_each(|item| this.value(item))),
            Value::Set(items) => {
                self.global("__builtin__", "set");
                self.list(items);
                self.out.extend_from_slice(&[0x85, b'R']);
            }
            Value::Dict(dict) => self.dict(dict),
            Value::Size(sizes) => {
                self.global("torch", "Size");
                self.tuple(|this| sizes.iter().for_each(|&size| this.int(size)));
                self.out.extend_from_slice(&[0x85, b'R']);
            }
            Value::DType(dtype) => self.global("torch", dtype.name()),
            Value::Device(device) => {
                self.global("torch", "device");
                self.text(device);
                self.out.extend_from_slice(&[0x85, b'R']);
            }
            Value::Tensor(tensor) => self.tensor(tensor),
        }
    }

    fn int(&mut self, number: i64) {
        if let Ok(byte) = u8::try_from(number) {
            self.out.extend_from_slice(&[b'K', byte]);
        } else if let Ok(number) = i32::try_from(number) {
            self.out.push(b'J');
            self.out.extend_from_slice(&number.to_le_bytes());
        } else {
            self.long(&number.to_le_bytes());
        }
    }

    fn long(&mut self, bytes: &[u8]) {
        match u8::try_from(bytes.len()) {
            Ok(len) => self.out.extend_from_slice(&[0x8a, len]),
            Err(_) => self.prefixed(0x8b, bytes.len()),
        }
        self.out.extend_from_slice(bytes);
    }

    fn float(&mut self, number: f64) {
        self.out.push(b'G');
        self.out.extend_from_slice(&number.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.prefixed(b'X', text.len());
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Protocol 2 has no bytes: they travel as text whose code points they are.
    fn bytes(&mut self, bytes: &[u8]) {
        self.global("_codecs", "encode");
        let text: String = bytes.iter().copied().map(char::from).collect();
        self.text(&text);
        self.text("latin1");
        self.out.extend_from_slice(&[0x86, b'R']);
    }

    fn list(&mut self, items: &[Value]) {
        self.out.extend_from_slice(b"](");
        for item in items {
            self.value(item);
        }
        self.out.push(b'e');
    }

    fn tuple(&mut self, items: impl FnOnce(&mut Self)) {
        self.out.push(b'(');
        items(self);
        self.out.push(b't');
    }

    fn dict(&mut self, dict: &Dict) {
        if dict.ordered {
            self.empty_ordered_dict();
        } else {
            self.out.push(b'}');
        }
        self.out.push(b'(');
        for (key, value) in &dict.items {
            self.value(key);
            self.value(value);
        }
        self.out.push(b'u');
    }

    fn empty_ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.out.extend_from_slice(b")R");
    }

    fn tensor(&mut self, tensor: &Tensor) {
        let (number, tensor) = self.store(tensor);
        let (dtype, item) = (tensor.dtype(), tensor.dtype().size());
        let class = storage_class(dtype);
        let (storage, offset) = tensor.storage();
        let numel = if class.is_some() { storage.len() / item } else { storage.len() };
        self.global("torch._utils", if class.is_some() { "_rebuild_tensor_v2" } else { "_rebuild_tensor_v3" });
        self.tuple(|this| {
            this.tuple(|this| {
                this.text("storage");
                match class {
                    Some(class) => this.global("torch", class),
                    None => this.global("torch.storage", "UntypedStorage"),
                }
                this.text(&number.to_string());
                this.text("cpu");
                this.int(numel as i64);
            });
            this.out.push(b'Q');
            this.int((offset / item) as i64);
            this.tuple(|this| tensor.shape().iter().for_each(|&size| this.int(size as i64)));
            this.tuple(|this| tensor.strides().iter().for_each(|&stride| this.int(stride as i64)));
            this.out.push(0x89);
            this.empty_ordered_dict();
            if class.is_none() {
                this.global("torch", dtype.name());
            }
        });
        self.out.push(b'R');
    }

    /// The number of the tensor's storage, and the tensor as it lies there.
    fn store(&mut self, tensor: &Tensor) -> (usize, Tensor) {
        let (storage, offset) = tensor.storage();
        let (dtype, item) = (tensor.dtype(), tensor.dtype().size());
        // Storages count elements, so one that begins or ends within an element is not expressible.
        let whole = storage.len().is_multiple_of(item) && offset.is_multiple_of(item);
        let tensor = if whole { tensor.clone() } else { own_copy(tensor) };
        let bytes = tensor.storage().0;
        let place = (bytes.as_ptr().addr(), bytes.len());
        let next = self.storages.len();
        let number = if bytes.is_empty() { next } else { *self.known.entry((place, dtype)).or_insert(next) };
        if number == next {
            self.storages.push(Stored { tensor: tensor.clone() });
        }
        (number, tensor)
    }

    fn global(&mut self, module: &str, name: &str) {
        self.out.push(b'c');
        self.out.extend_from_slice(module.as_bytes());
        self.out.push(b'\n');
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'\n');
    }

    fn prefixed(&mut self, opcode: u8, len: usize) {
        self.out.push(opcode);
        // A text beyond 4 GiB cannot be expressed, and `write_pt` refuses what it would be part of.
        self.out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    }
}

/// In memory of its own: what is contiguous already would share its storage.
fn own_copy(tensor: &Tensor) -> Tensor {
    let mut bytes = vec![0; tensor.nbytes()];
    let copied = tensor.copy_to(&mut bytes);
    let copied = copied.and_then(|()| Tensor::from_bytes(tensor.dtype(), tensor.shape(), bytes.into()));
    copied.unwrap_or_else(|_| tensor.clone())
}

/// The storage class of a dtype; younger dtypes have none and lie in untyped storage.
fn storage_class(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "DoubleStorage",
        DType::F32 => "FloatStorage",
        DType::F16 => "HalfStorage",
        DType::BF16 => "BFloat16Storage",
        DType::I64 => "LongStorage",
        DType::I32 => "IntStorage",
        DType::I16 => "ShortStorage",
        DType::I8 => "CharStorage",
        DType::U8 => "ByteStorage",
        DType::Bool => "BoolStorage",
        DType::C64 => "ComplexFloatStorage",
        DType::C128 => "ComplexDoubleStorage",
        _ => return None,
    })
}

/// A zip of stored entries under construction.
struct Zip {
    out: Vec<u8>,
    directory: Vec<u8>,
    entries: usize,
}

impl Zip {
    fn add(&mut self, name: &str, content: &[u8]) {
        let header = self.out.len();
        let unpadded = header + 30 + name.len() + 4;
        let padding = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        let mut common = Vec::with_capacity(26);
        for field in [UTF8_NAMES, 0, 0, DOS_DATE] {
            common.extend_from_slice(&field.to_le_bytes());
        }
        for field in [crc32fast::hash(content), content.len() as u32, content.len() as u32] {
            common.extend_from_slice(&field.to_le_bytes());
        }
        common.extend_from_slice(&(name.len() as u16).to_le_bytes());

        self.out.extend_from_slice(b"PK\x03\x04\x14\0");
        self.out.extend_from_slice(&common);
        self.out.extend_from_slice(&((padding + 4) as u16).to_le_bytes());
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(&PADDING_FIELD);
        self.out.extend_from_slice(&(padding as u16).to_le_bytes());
        self.out.resize(self.out.len() + padding, b'Z');
        self.out.extend_from_slice(content);

        self.directory.extend_from_slice(b"PK\x01\x02\x14\0\x14\0");
        self.directory.extend_from_slice(&common);
        self.directory.extend_from_slice(&[0; 12]); // extra, comment, disk, attributes
        self.directory.extend_from_slice(&(header as u32).to_le_bytes());
        self.directory.extend_from_slice(name.as_bytes());
        self.entries += 1;
    }

    /// The zip64 end of the directory and where to find it, for more entries than the old end can count.
    fn many_entries(&mut self, offset: u32, size: u32) {
        let (at, entries) = (self.out.len() as u64, self.entries as u64);
        self.out.extend_from_slice(b"PK\x06\x06");
        self.out.extend_from_slice(&44_u64.to_le_bytes()); // what follows of this record
        self.out.extend_from_slice(&[45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // versions, disks
        for field in [entries, entries, u64::from(size), u64::from(offset)] {
            self.out.extend_from_slice(&field.to_le_bytes());
        }
        self.out.extend_from_slice(b"PK\x06\x07\0\0\0\0");
        self.out.extend_from_slice(&at.to_le_bytes());
        self.out.extend_from_slice(&1_u32.to_le_bytes());
    }

    fn finish(mut self) -> Vec<u8> {
        let (offset, size) = (self.out.len() as u32, self.directory.len() as u32);
        self.out.append(&mut self.directory);
        if self.entries >= usize::from(u16::MAX) {
            self.many_entries(offset, size);
        }
        let entries = u16::try_from(self.entries).unwrap_or(u16::MAX);
        self.out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
        self.out.extend_from_slice(&entries.to_le_bytes());
        self.out.extend_from_slice(&entries.to_le_bytes());
        self.out.extend_from_slice(&size.to_le_bytes());
        self.out.extend_from_slice(&offset.to_le_bytes());
        self.out.extend_from_slice(&[0; 2]);
        self.out
    }
}
