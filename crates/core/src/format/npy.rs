//! `.npy`: one array.
//!
//! Versions 1 to 3; C order as it is, Fortran order by its strides, big-endian turned round. Structured arrays and objects
//! (which are pickles) are refused by name.

use bytes::Bytes;

use super::{Decoded, Decoder, Limits};
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::value::{DType, Dims, Tensor, Value};

const MAGIC: &[u8] = b"\x93NUMPY";
/// What numpy itself reads unless told to trust the file.
const MAX_HEADER: usize = 10_000;

/// The `.npy` decoder.
#[derive(Debug)]
pub struct Npy;

impl Decoder for Npy {
    fn name(&self) -> &'static str {
        "npy"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &[".npy"]
    }

    fn decode(&self, bytes: &Bytes, _: &Limits, buffers: &BufferPool) -> Result<Decoded> {
        let (header, start) = header(bytes)?;
        let header = Header::parse(header)?;
        let mut data = bytes.slice(start..);
        if header.is_big_endian && header.dtype.swap_unit() > 1 {
            let mut turned = buffers.take(data.len());
            turned.copy_from_slice(&data);
            turned.chunks_exact_mut(header.dtype.swap_unit()).for_each(<[u8]>::reverse);
            data = turned.freeze();
        }
        let plain = Tensor::from_bytes(header.dtype, &header.shape, data).map_err(corrupt)?;
        let tensor = if header.is_fortran { fortran(&plain)? } else { plain };
        Ok(vec![(String::new(), Value::Tensor(tensor))])
    }
}

fn fortran(plain: &Tensor) -> Result<Tensor> {
    let mut strides = Dims::new();
    let mut stride = 1;
    for &size in plain.shape() {
        strides.push(stride);
        stride *= size.max(1);
    }
    let (storage, offset) = plain.storage();
    Tensor::new(plain.dtype(), plain.shape(), &strides, storage.clone(), offset)
}

fn header(bytes: &[u8]) -> Result<(&str, usize)> {
    let cut = || corrupt("it is cut off within its header");
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| corrupt("it does not begin like an npy file"))?;
    let ([major, _], rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    let (len, rest, before) = match major {
        1 => {
            let (len, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
            (usize::from(u16::from_le_bytes(*len)), rest, 10)
        }
        2 | 3 => {
            let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
            (u32::from_le_bytes(*len) as usize, rest, 12)
        }
        version => {
            return Err(Error::new(ErrorKind::Unsupported, "read", "npy").because(format_args!("version {version}")));
        }
    };
    if len > MAX_HEADER {
        return Err(corrupt(format_args!("its header says that it is {len} bytes long")));
    }
    let text = rest.get(..len).ok_or_else(cut)?;
    Ok((str::from_utf8(text).map_err(|_| corrupt("its header is not text"))?, before + len))
}

struct Header {
    dtype: DType,
    is_big_endian: bool,
    is_fortran: bool,
    shape: Dims,
}

impl Header {
    /// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`: a literal of Python, in any order of keys, with either
    /// quotes and with spaces where Python allows them.
    fn parse(text: &str) -> Result<Self> {
        let text = &text.replace('"', "'");
        let odd = || corrupt(format_args!("its header is odd: {}", text.trim_end().escape_debug()));
        let value_of = |key: &str| {
            // A structure may have fields of the same name, but no colon follows those.
            let quoted = format!("'{key}'");
            text.split(&quoted).skip(1).find_map(|rest| rest.trim_start().strip_prefix(':')).map(str::trim_start)
        };
        let descr = value_of("descr").ok_or_else(odd)?;
        let order = value_of("fortran_order").ok_or_else(odd)?;
        let shape = value_of("shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).ok_or_else(odd)?.0;
        let is_fortran = match (order.starts_with("True"), order.starts_with("False")) {
            (true, _) => true,
            (_, true) => false,
            _ => return Err(odd()),
        };
        let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
        let shape = sizes.map(|size| size.parse().map_err(|_| odd())).collect::<Result<_>>()?;
        let descr = descr.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map_or(descr, |(descr, _)| descr);
        let (dtype, is_big_endian) = dtype_of(descr).ok_or_else(|| {
            let shown: String = descr.escape_debug().take(80).collect();
            Error::new(ErrorKind::Unsupported, "read", "npy").because(format_args!("dtype {shown}"))
        })?;
        Ok(Self { dtype, is_big_endian, is_fortran, shape })
    }
}

fn dtype_of(descr: &str) -> Option<(DType, bool)> {
    let order = descr.chars().next()?;
    let dtype = match descr.get(1..)? {
        "b1" => DType::Bool,
        "i1" => DType::I8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "u1" => DType::U8,
        "u2" => DType::U16,
        "u4" => DType::U32,
        "u8" => DType::U64,
        "f2" => DType::F16,
        "f4" => DType::F32,
        "f8" => DType::F64,
        "c8" => DType::C64,
        "c16" => DType::C128,
        _ => return None,
    };
    matches!(order, '<' | '>' | '|').then_some((dtype, order == '>'))
}

fn corrupt(reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, "read", "npy").because(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Bytes {
        [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat().into()
    }

    fn decode(bytes: &Bytes) -> Result<Tensor> {
        match Npy.decode(bytes, &Limits::default(), &BufferPool::new(0))?.pop() {
            Some((_, Value::Tensor(tensor))) => Ok(tensor),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_both_orders_of_axes_and_bytes() {
        let data = [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6];
        let c = decode(&file("{'descr': '>i2', 'fortran_order': False, 'shape': (2, 3), }\n", &data)).expect("C");
        assert_eq!(c.contiguous_bytes(), Some(&[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0][..]));
        let f = decode(&file("{'shape': (2, 3), 'fortran_order': True, 'descr': '>i2'}", &data)).expect("Fortran");
        assert_eq!((f.shape(), f.strides()), (&[2, 3][..], &[1, 2][..]));
        assert_eq!(
            f.to_contiguous().expect("plain").contiguous_bytes(),
            Some(&[1, 0, 3, 0, 5, 0, 2, 0, 4, 0, 6, 0][..])
        );
        let scalar = decode(&file("{'descr': '|b1', 'fortran_order': False, 'shape': (), }", &[1])).expect("scalar");
        assert_eq!((scalar.dtype(), scalar.shape()), (DType::Bool, &[][..]));
    }

    #[test]
    fn reads_headers_as_others_write_them() {
        for header in [
            "{'descr' : '<i2', 'fortran_order' : False, 'shape' : (2,)}",
            r#"{"descr": "<i2", "fortran_order": False, "shape": (2,)}"#,
            "{ \"shape\"\t:( 2 , ) ,\n'fortran_order':False,'descr'  :\"<i2\" }",
        ] {
            let tensor = decode(&file(header, &[1, 0, 2, 0])).expect(header);
            assert_eq!((tensor.dtype(), tensor.shape()), (DType::I16, &[2][..]), "{header}");
        }
    }

    #[test]
    fn names_a_structure_whose_fields_are_called_like_keys() {
        let header = "{'descr': [('shape', '<f4'), ('fortran_order', '<f4')], 'fortran_order': False, 'shape': (2,), }";
        let error = decode(&file(header, &[0; 16])).expect_err("a structure");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }

    #[test]
    fn refuses_objects_structures_and_damage() {
        for (descr, word) in [("'|O'", "|O"), ("[('a', '<f4')]", "'a'"), ("'<U4'", "<U4"), ("'<f16'", "<f16")] {
            let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}");
            let error = decode(&file(&header, &[0; 16])).expect_err(descr);
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().replace('\\', "").contains(word), "{error}");
        }
        for shape in ["(-1,)", "(18446744073709551615, 2)", "(99999999999999999999,)", "(3,)", "(1,"] {
            let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}");
            decode(&file(&header, &[0; 8])).expect_err(shape);
        }
    }
}
