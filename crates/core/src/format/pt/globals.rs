//! The names a pickle may mention, and what calling each of them makes.

use super::machine::{Id, Machine, Node, Signs, StorageUse, TensorSpec};
use crate::error::Result;
use crate::value::{DType, Dims};

/// A constructor or constant on the allow-list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    RebuildTensorV2,
    RebuildTensorV3,
    RebuildParameter,
    RebuildFromType,
    /// `torch.Tensor` or `Parameter`, as the type that `_rebuild_from_type_v2` names.
    TensorClass,
    /// A storage class; untyped without a dtype.
    Storage(Option<DType>),
    OrderedDict,
    Counter,
    Set,
    FrozenSet,
    Bytes,
    ByteArray,
    Encode,
    Complex,
    Size,
    DType(DType),
    Device,
}

/// Finds a name on the allow-list.
pub(super) fn find(module: &str, name: &str) -> Option<Global> {
    use Global as G;
    Some(match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => G::RebuildTensorV2,
        ("torch._utils", "_rebuild_tensor_v3") => G::RebuildTensorV3,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => G::RebuildParameter,
        ("torch._tensor", "_rebuild_from_type_v2") => G::RebuildFromType,
        ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => G::TensorClass,
        ("torch", "Size") => G::Size,
        ("torch", "device") => G::Device,
        ("torch.storage" | "torch", "UntypedStorage") => G::Storage(None),
        ("torch", name) => match storage_dtype(name) {
            Some(dtype) => G::Storage(Some(dtype)),
            None => G::DType(name.parse().ok()?),
        },
        ("collections", "OrderedDict") => G::OrderedDict,
        ("collections", "Counter") => G::Counter,
        ("_codecs", "encode") => G::Encode,
        ("builtins" | "__builtin__", name) => match name {
            "set" => G::Set,
            "frozenset" => G::FrozenSet,
            "bytes" => G::Bytes,
            "bytearray" => G::ByteArray,
            "complex" => G::Complex,
            _ => return None,
        },
        _ => return None,
    })
}

fn storage_dtype(class: &str) -> Option<DType> {
    Some(match class {
        "DoubleStorage" => DType::F64,
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "LongStorage" => DType::I64,
        "IntStorage" => DType::I32,
        "ShortStorage" => DType::I16,
        "CharStorage" => DType::I8,
        "ByteStorage" => DType::U8,
        "BoolStorage" => DType::Bool,
        "ComplexFloatStorage" => DType::C64,
        "ComplexDoubleStorage" => DType::C128,
        _ => return None,
    })
}

/// torch itself makes none of more.
const MAX_DIMS: usize = 64;

/// What `global(*arguments)` makes.
pub(super) fn call(machine: &mut Machine<'_>, global: Global, arguments: &[Id]) -> Result<Id> {
    use Global as G;
    let node = match (global, arguments) {
        (G::RebuildTensorV2, [storage, offset, size, stride, _, _, metadata @ ..]) if metadata.len() <= 1 => {
            let signs = signs(machine, metadata.first())?;
            tensor(machine, None, [*storage, *offset, *size, *stride], signs)?
        }
        (G::RebuildTensorV3, [storage, offset, size, stride, _, _, dtype, metadata @ ..]) if metadata.len() <= 1 => {
            let Node::Global(G::DType(dtype)) = *machine.node(*dtype) else {
                return machine.refuse("no dtype where one belongs");
            };
            let signs = signs(machine, metadata.first())?;
            tensor(machine, Some(dtype), [*storage, *offset, *size, *stride], signs)?
        }
        (G::RebuildParameter, [data, _, _] | [data, _, _, _]) => return same_tensor(machine, *data),
        (G::RebuildFromType, [function, class, arguments, _]) => {
            return from_type(machine, *function, *class, *arguments);
        }
        (G::OrderedDict, []) => Node::Dict { items: Vec::new(), ordered: true },
        (G::OrderedDict, [pairs]) => Node::Dict { items: pairs_of(machine, *pairs)?, ordered: true },
        (G::Counter, []) => Node::Dict { items: Vec::new(), ordered: false },
        (G::Counter, [counts]) if matches!(machine.node(*counts), Node::Dict { .. }) => return Ok(*counts),
        (G::Set | G::FrozenSet, []) => Node::Set(Vec::new()),
        (G::Set | G::FrozenSet, [items]) => Node::Set(machine.copied_items(*items)?),
        (G::Bytes | G::ByteArray, []) => Node::Bytes(Vec::new().into()),
        (G::ByteArray, [bytes]) if matches!(machine.node(*bytes), Node::Bytes(_)) => return Ok(*bytes),
        (G::Encode | G::ByteArray | G::Bytes, [text, encoding]) => encoded(machine, *text, *encoding)?,
        (G::Complex, [real, imaginary]) => Node::Complex(machine.float_of(*real)?, machine.float_of(*imaginary)?),
        (G::Size, [sizes]) => Node::Size(machine.ints_of(*sizes)?),
        (G::Device, [kind]) => Node::Device(device_kind(machine, *kind)?.to_owned()),
        (G::Device, [kind, index]) => {
            Node::Device(format!("{}:{}", device_kind(machine, *kind)?, machine.int_of(*index)?))
        }
        _ => return machine.refuse(format_args!("{global:?} cannot be called with {} arguments", arguments.len())),
    };
    machine.add(node)
}

fn tensor(
    machine: &Machine<'_>,
    dtype: Option<DType>,
    [storage, offset, size, stride]: [Id; 4],
    signs: Signs,
) -> Result<Node<'static>> {
    let Node::Storage(StorageUse { storage, base }) = *machine.node(storage) else {
        return machine.refuse("a tensor without a storage");
    };
    let Some(dtype) = dtype.or(machine.storages[storage].dtype) else {
        return machine.refuse("a tensor without a dtype");
    };
    let dims = |id| -> Result<_> { machine.ints_of(id)?.into_iter().map(|n| machine.size_from(n)).collect() };
    let (shape, strides): (Dims, Dims) = (dims(size)?, dims(stride)?);
    if shape.len() > MAX_DIMS {
        return machine.unsupported(format_args!("a tensor of {} dimensions", shape.len()));
    }
    let offset = machine.size_from(machine.int_of(offset)?)?.checked_add(base);
    let Some(offset) = offset.and_then(|elements| elements.checked_mul(dtype.size())) else {
        return machine.refuse("a tensor's offset is absurd");
    };
    Ok(Node::Tensor(Box::new(TensorSpec { dtype, storage, offset, shape, strides, signs })))
}

/// Views that torch keeps as a mark on the tensor instead of changing its elements.
fn signs(machine: &Machine<'_>, metadata: Option<&Id>) -> Result<Signs> {
    let mut signs = Signs::default();
    let items = match metadata.map(|&id| machine.node(id)) {
        None | Some(Node::None) => return Ok(signs),
        Some(Node::Dict { items, .. }) => items,
        Some(_) => return machine.refuse("tensor metadata that is no dict"),
    };
    machine.charge(items.len())?;
    for &(name, value) in items {
        match (machine.str_of(name)?, machine.node(value)) {
            ("conj", Node::Bool(is_set)) => signs.conj = *is_set,
            ("neg", Node::Bool(is_set)) => signs.neg = *is_set,
            (name, _) => return machine.unsupported(format_args!("a tensor with `{}`", name.escape_debug())),
        }
    }
    Ok(signs)
}

fn device_kind<'a>(machine: &Machine<'a>, kind: Id) -> Result<&'a str> {
    let kind = machine.node_str(kind)?;
    machine.charge(kind.len())?;
    Ok(kind)
}

fn same_tensor(machine: &Machine<'_>, data: Id) -> Result<Id> {
    match machine.node(data) {
        Node::Tensor(_) => Ok(data),
        _ => machine.refuse("a parameter without a tensor"),
    }
}

fn from_type(machine: &mut Machine<'_>, function: Id, class: Id, arguments: Id) -> Result<Id> {
    let Node::Global(function @ (Global::RebuildTensorV2 | Global::RebuildTensorV3 | Global::RebuildParameter)) =
        *machine.node(function)
    else {
        return machine.refuse("`_rebuild_from_type_v2` of something else than a tensor");
    };
    if !matches!(machine.node(class), Node::Global(Global::TensorClass)) {
        return machine.refuse("`_rebuild_from_type_v2` of something else than a tensor");
    }
    let arguments = machine.copied_items(arguments)?;
    call(machine, function, &arguments)
}

fn pairs_of(machine: &Machine<'_>, pairs: Id) -> Result<Vec<(Id, Id)>> {
    let pair = |&id: &Id| match machine.items_of(id)? {
        [key, value] => Ok((*key, *value)),
        _ => machine.refuse("a pair that is none"),
    };
    machine.charge(2 * machine.items_of(pairs)?.len())?;
    machine.items_of(pairs)?.iter().map(pair).collect()
}

/// `bytes` under pickle protocol 2: text whose code points are the bytes.
fn encoded<'a>(machine: &Machine<'a>, text: Id, encoding: Id) -> Result<Node<'a>> {
    if !matches!(machine.str_of(encoding)?, "latin1" | "latin-1") {
        return machine.refuse("bytes in an encoding other than latin1");
    }
    machine.charge(machine.str_of(text)?.len())?;
    let bytes: Result<Vec<u8>, _> = machine.str_of(text)?.chars().map(|c| u8::try_from(u32::from(c))).collect();
    bytes.map_or_else(|_| machine.refuse("text that is not latin1"), |bytes| Ok(Node::Bytes(bytes.into())))
}
