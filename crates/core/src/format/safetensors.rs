//! `.safetensors`: a JSON header, then the tensors in a row.
//!
//! The value is a dict, name → tensor, in the order of the file's header; `__metadata__` is not a tensor and is left out. Tensors
//! are views of the object's bytes. Offsets must tile the data without gaps or overlaps, as the format demands.

use bytes::Bytes;
use indexmap::IndexMap;
use serde::Deserialize;

use super::{Decoded, Decoder, Limits};
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::value::{DType, Dict, Tensor, Value};

/// What the format allows a header to take.
const MAX_HEADER: usize = 100_000_000;

/// The `.safetensors` decoder.
#[derive(Debug)]
pub struct Safetensors;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl Decoder for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &[".safetensors"]
    }

    fn decode(&self, bytes: &Bytes, limits: &Limits, _: &BufferPool) -> Result<Decoded> {
        let (header, start) = header(bytes)?;
        let mut entries: IndexMap<String, serde_json::Value> =
            serde_json::from_slice(header).map_err(|cause| corrupt("header", cause))?;
        entries.shift_remove("__metadata__");
        if entries.len() > limits.max_nodes {
            return Err(Error::new(ErrorKind::Unsupported, "read", "safetensors header")
                .because(format_args!("it names {} tensors", entries.len())));
        }
        let data = bytes.slice(start..);
        let mut ranges = Vec::with_capacity(entries.len());
        let mut dict = Dict::default();
        for (name, entry) in entries {
            let entry: Entry = serde_json::from_value(entry).map_err(|cause| corrupt(&name, cause))?;
            ranges.push(entry.data_offsets);
            let tensor = tensor(&name, &entry, &data)?;
            dict.items.push((Value::Str(name), Value::Tensor(tensor)));
        }
        check_tiling(ranges, data.len())?;
        Ok(vec![(String::new(), Value::Dict(dict))])
    }
}

fn header(bytes: &[u8]) -> Result<(&[u8], usize)> {
    let cut = || corrupt("header", "it is cut off");
    let (len, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
    let len = usize::try_from(u64::from_le_bytes(*len)).unwrap_or(usize::MAX);
    if len > MAX_HEADER {
        return Err(corrupt("header", format_args!("it says that it is {len} bytes long")));
    }
    rest.get(..len).map(|header| (header, 8 + len)).ok_or_else(cut)
}

fn tensor(name: &str, entry: &Entry, data: &Bytes) -> Result<Tensor> {
    let dtype = dtype_of(&entry.dtype).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "read", name.escape_debug())
            .because(format_args!("dtype {}", entry.dtype.escape_debug()))
    })?;
    let (begin, end) = entry.data_offsets;
    if begin > end || end > data.len() {
        return Err(corrupt(name, format_args!("bytes {begin}..{end} do not lie within its {} bytes", data.len())));
    }
    Tensor::from_bytes(dtype, &entry.shape, data.slice(begin..end)).map_err(|cause| corrupt(name, cause))
}

fn check_tiling(mut ranges: Vec<(usize, usize)>, len: usize) -> Result<()> {
    ranges.sort_unstable();
    let mut at = 0;
    for (begin, end) in ranges {
        if begin != at {
            return Err(corrupt("data", format_args!("tensors overlap or leave a gap at offset {begin}")));
        }
        at = end;
    }
    if at == len { Ok(()) } else { Err(corrupt("data", format_args!("tensors end at {at} of {len} bytes"))) }
}

fn dtype_of(name: &str) -> Option<DType> {
    Some(match name {
        "F64" => DType::F64,
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        "F8_E4M3" => DType::F8E4M3FN,
        "F8_E4M3FNUZ" => DType::F8E4M3FNUZ,
        "F8_E5M2" => DType::F8E5M2,
        "F8_E5M2FNUZ" => DType::F8E5M2FNUZ,
        "F8_E8M0" => DType::F8E8M0FNU,
        "I64" => DType::I64,
        "I32" => DType::I32,
        "I16" => DType::I16,
        "I8" => DType::I8,
        "U64" => DType::U64,
        "U32" => DType::U32,
        "U16" => DType::U16,
        "U8" => DType::U8,
        "BOOL" => DType::Bool,
        "C64" => DType::C64,
        _ => return None,
    })
}

fn corrupt(what: &str, reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, "read", format_args!("safetensors {}", what.escape_debug())).because(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Bytes {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat().into()
    }

    fn decode(bytes: &Bytes) -> Result<Value> {
        let mut decoded = Safetensors.decode(bytes, &Limits::default(), &BufferPool::new(0))?;
        Ok(decoded.pop().expect("one value").1)
    }

    const TWO: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},
        "a":{"dtype":"I16","shape":[2,1],"data_offsets":[0,4]}}"#;

    #[test]
    fn reads_tensors_in_header_order() {
        let Value::Dict(dict) = decode(&file(TWO, &[1, 0, 2, 0, 3, 0, 4, 0])).expect("reads") else { panic!("a dict") };
        let names: Vec<_> = dict.items.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, [Value::from("b"), Value::from("a")]);
        let Some(Value::Tensor(a)) = dict.get("a") else { panic!("a tensor") };
        assert_eq!((a.dtype(), a.shape(), a.contiguous_bytes()), (DType::I16, &[2, 1][..], Some(&[1, 0, 2, 0][..])));
    }

    #[test]
    fn refuses_headers_that_lie() {
        for header in [
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#,
            r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
            r#"{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"U8","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}"#,
            r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"Q4","shape":[8],"data_offsets":[0,8]}}"#,
            "[1]",
        ] {
            decode(&file(header, &[0; 8])).expect_err(header);
        }
        let mut bomb = u64::MAX.to_le_bytes().to_vec();
        bomb.push(b'{');
        decode(&bomb.into()).expect_err("an absurd header");
    }
}
