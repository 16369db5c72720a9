use std::ops::Range;
use std::sync::mpsc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::buffer::BufferPool;
use crate::codec::tensor::block_bytes;
use crate::engine::Workers;
use crate::value::{DType, Dict, Packed, Tensor, Value};

mod golden;

const FORCED: Compression = Compression::AtLeast(0.0);

fn packed(value: &Value, compression: Compression) -> Packed {
    pack(value, compression, &BufferPool::new(0)).expect("packed")
}

fn bytes_of(packed: &Packed) -> Bytes {
    packed.record().expect("a record").clone()
}

/// Bytes that a codec has something to do with, and bit patterns that are none of numbers.
fn storage(seed: u64, len: usize) -> Bytes {
    let mut state = seed | 1;
    let next = move |at: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match seed % 4 {
            0 => state as u8,
            1 => (state & 3) as u8,
            2 => {
                if at % 4 < 2 {
                    0
                } else {
                    state as u8
                }
            }
            _ => [0xff, 0x7f, 0x80, 0x00, 0xc0][state as usize % 5],
        }
    };
    (0..len).map(next).collect::<Vec<_>>().into()
}

fn tensors() -> impl Strategy<Value = Tensor> {
    let dims = prop::collection::vec((0..7_usize, 0..9_usize), 0..4);
    (prop::sample::select(DType::ALL), dims, any::<u64>(), 0..3_usize).prop_map(|(dtype, dims, seed, skipped)| {
        let (shape, strides): (Vec<_>, Vec<_>) = dims.into_iter().unzip();
        let last: usize =
            shape.iter().zip(&strides).map(|(&size, &stride): (&usize, &usize)| size.saturating_sub(1) * stride).sum();
        let bytes = storage(seed, (last + 1 + skipped) * dtype.size());
        Tensor::new(dtype, &shape, &strides, bytes, skipped * dtype.size()).expect("fits")
    })
}

fn values() -> impl Strategy<Value = Value> {
    let leaves = prop_oneof![
        tensors().prop_map(Value::Tensor),
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::BigInt),
        any::<u64>().prop_map(|bits| Value::Float(f64::from_bits(bits))),
        any::<(f64, f64)>().prop_map(|(real, imaginary)| Value::Complex(real, imaginary)),
        ".*".prop_map(Value::Str),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| Value::Bytes(bytes.into())),
        prop::collection::vec(any::<i64>(), 0..5).prop_map(Value::Size),
        prop::sample::select(DType::ALL).prop_map(Value::DType),
        ".*".prop_map(Value::Device),
    ];
    leaves.prop_recursive(4, 40, 6, |inner| {
        let items = prop::collection::vec(inner.clone(), 0..6);
        prop_oneof![
            items.clone().prop_map(Value::List),
            items.clone().prop_map(Value::Tuple),
            items.prop_map(Value::Set),
            (prop::collection::vec((inner.clone(), inner), 0..5), any::<bool>())
                .prop_map(|(items, ordered)| Value::Dict(Dict { items, ordered })),
        ]
    })
}

proptest! {
    #[test]
    fn what_was_packed_comes_out_bit_for_bit(value in values(), forced: bool) {
        let packed = packed(&value, if forced { FORCED } else { Compression::None });
        prop_assert_eq!(packed.value(), &value);
        let record = bytes_of(&packed);
        verify(&record).expect("sound");
        prop_assert_eq!(open(&record).expect("opened"), value.clone());
        let own = Packed::new(packed.value(), &BufferPool::new(0)).expect("copied");
        prop_assert_eq!(own.value(), &value);
        prop_assert!(!own.value().is_packed());
        prop_assert!(packed.bytes() <= memory_for(&value), "{} bytes", packed.bytes());
        prop_assert_eq!(packed.value().is_packed(), forced && Packed::bytes_for(&value) > 0);
    }
}

/// A value as it is, as `docs/formats.md` counts it: of a tensor its bytes and what DLPack says of it.
fn plain_bytes(value: &Value) -> usize {
    let all = |items: &[Value]| items.iter().map(plain_bytes).sum::<usize>();
    let own = match value {
        Value::Tensor(tensor) => return tensor.tight_len() + 48 + 16 * tensor.shape().len(),
        Value::BigInt(bytes) => bytes.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Str(text) | Value::Device(text) => text.len(),
        Value::Complex(..) => 16,
        Value::Size(sizes) => 16 * sizes.len(),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => all(items),
        Value::Dict(dict) => dict.items.iter().map(|(key, item)| plain_bytes(key) + plain_bytes(item)).sum(),
        _ => 0,
    };
    16 + own
}

/// Tensors of some sizes, from hundreds of single elements to several blocks: what is little of a large one is much of a small one.
fn tensors_of(len: Range<usize>, most: usize) -> impl Strategy<Value = Value> {
    let tensor = (prop::sample::select(DType::ALL), len, any::<u64>()).prop_map(|(dtype, len, seed)| {
        Tensor::from_bytes(dtype, &[len], storage(seed, len * dtype.size())).expect("a tensor")
    });
    prop::collection::vec(tensor.prop_map(Value::Tensor), 0..most).prop_map(Value::List)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_record_is_hardly_larger_than_its_value(
        value in prop_oneof![values(), tensors_of(1..3, 300), tensors_of(0..9000, 60), tensors_of(9000..200_000, 4)],
        compression in prop::sample::select(vec![Compression::None, FORCED, Compression::AtLeast(1.1)]),
    ) {
        let (record, plain) = (bytes_of(&packed(&value, compression)).len(), plain_bytes(&value));
        prop_assert!(record <= plain + plain / 100 + 256, "{record} bytes of {plain}");
    }
}

#[test]
fn blocks_that_do_not_shrink_where_pieces_did_cost_hardly_more() {
    // What is tried is constant, all else is noise.
    let mut bytes = storage(0, 3 << 20).to_vec();
    for third in 1..=2 {
        let middle = bytes.len() / 3 * third;
        bytes[middle - (40 << 10)..middle + (40 << 10)].fill(0);
    }
    let value = Value::Tensor(Tensor::from_bytes(DType::F32, &[bytes.len() / 4], bytes.into()).expect("a tensor"));
    let packed = packed(&value, Compression::AtLeast(1.25));
    assert!(packed.value().is_packed());
    let (record, plain) = (bytes_of(&packed).len(), plain_bytes(&value));
    assert!(record <= plain + plain / 100 + 256, "{record} bytes of {plain}");
}

fn latents() -> Tensor {
    let bytes = storage(2, 3 * 70_000 * 4);
    Tensor::from_bytes(DType::F32, &[3, 70_000], bytes).expect("a tensor")
}

fn sample() -> Value {
    let small = Tensor::from_bytes(DType::BF16, &[40], storage(1, 80)).expect("a tensor");
    Value::Dict(Dict::from_iter([("x", Value::from(small)), ("name", Value::from("a")), ("n", Value::from(-7_i64))]))
}

#[test]
fn a_part_of_a_tensor_is_unpacked_by_itself() {
    let (tensor, packed) = (latents(), packed(&Value::Tensor(latents()), FORCED));
    let Value::Tensor(inside) = packed.value() else { panic!("a tensor") };
    let unpack = inside.packed_bytes().expect("packed and contiguous");
    assert_eq!((unpack.len(), unpack.block_bytes()), (tensor.nbytes(), block_bytes(4)));
    let all = tensor.contiguous_bytes().expect("contiguous");
    for (from, len) in
        [(0, 280_000), (0, 1), (block_bytes(4), block_bytes(4)), (block_bytes(4) - 3, 10), (5, 700_000), (839_990, 10)]
    {
        let mut out = vec![0; len];
        unpack.unpack(from, &mut out).expect("unpacked");
        assert!(out == all[from..from + len], "{len} from {from}");
    }
    assert!(unpack.unpack(all.len() - 1, &mut [0, 0]).is_err(), "beyond its end");
}

#[test]
fn a_large_tensor_begins_at_a_multiple_of_64_and_a_small_one_of_its_element() {
    let tensor = |dtype: DType, len: usize| {
        Value::Tensor(Tensor::from_bytes(dtype, &[len / dtype.size()], storage(0, len)).expect("a tensor"))
    };
    let sizes =
        [(DType::U8, 3), (DType::F64, 8), (DType::U8, 1), (DType::F32, 8192), (DType::I16, 8190), (DType::C128, 32)];
    let value = Value::List(sizes.map(|(dtype, len)| tensor(dtype, len)).into());
    let packed = packed(&value, Compression::None);
    let Value::List(items) = packed.value() else { panic!("a list") };
    let places: Vec<_> = items
        .iter()
        .map(|item| {
            let Value::Tensor(tensor) = item else { panic!("a tensor") };
            tensor.contiguous_bytes().expect("a view").as_ptr().addr()
        })
        .collect();
    assert!(places[0].is_multiple_of(64));
    let offsets: Vec<_> = places.iter().map(|place| place - places[0]).collect();
    assert_eq!(offsets, [0, 8, 16, 64, 64 + 8192, 64 + 8192 + 8192]);
}

#[test]
fn several_threads_write_the_bytes_that_one_does() {
    let large =
        |seed, len| Value::Tensor(Tensor::from_bytes(DType::F32, &[len], storage(seed, len * 4)).expect("a tensor"));
    // The last block of the first one is short, the second has fewer blocks than there are threads for it.
    let values = [large(2, 5_000_001), sample(), large(1, 1_100_000), Value::List(vec![large(2, 2_000_000), sample()])];
    let value = Value::List(values.into());
    for compression in [FORCED, Compression::AtLeast(1.25), Compression::None] {
        let alone = bytes_of(&packed(&value, compression));
        let workers = Workers::start(7).expect("threads");
        let (sender, receiver) = mpsc::channel();
        for _ in 0..9 {
            let (sender, value) = (sender.clone(), value.clone());
            workers.spawn(move || sender.send(bytes_of(&packed(&value, compression))).expect("heard"));
        }
        drop(sender);
        let together: Vec<_> = receiver.iter().collect();
        assert!(together.len() == 9 && together.iter().all(|record| *record == alone));
        verify(&alone).expect("sound");
    }
}

#[test]
fn what_gains_too_little_lies_as_it_is() {
    let noise = Value::Tensor(Tensor::from_bytes(DType::U8, &[100_000], storage(0, 100_000)).expect("a tensor"));
    let packed = packed(&noise, Compression::AtLeast(1.1));
    assert!(!packed.value().is_packed());
    let record = bytes_of(&packed);
    assert!(record.len() <= 100_000 + 1000 + 256, "{}", record.len());
    let Value::Tensor(tensor) = packed.value() else { panic!("a tensor") };
    let bytes = tensor.contiguous_bytes().expect("a view");
    assert!(record.as_ptr_range().contains(&bytes.as_ptr()), "of the record itself");
    assert!(bytes.as_ptr().addr().is_multiple_of(64), "as vector instructions like it");
}

#[test]
fn a_record_that_was_cut_off_or_goes_on_is_damaged() {
    for compression in [FORCED, Compression::None] {
        let record = bytes_of(&packed(&sample(), compression));
        for len in 0..record.len() {
            assert!(open(&record.slice(..len)).is_err(), "{len} of {} bytes", record.len());
        }
        let longer: Bytes = [&record[..], b"x"].concat().into();
        assert!(open(&longer).is_err());
    }
}

#[test]
fn every_bit_that_flips_is_noticed() {
    for compression in [FORCED, Compression::None] {
        let record = bytes_of(&packed(&sample(), compression));
        for bit in 0..8 * record.len() {
            let mut other = record.to_vec();
            other[bit / 8] ^= 1 << (bit % 8);
            let other = Bytes::from(other);
            let is_padding = open(&other).is_ok_and(|value| value == sample()) && verify(&other).is_ok();
            assert!(verify(&other).is_err() || is_padding, "bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_no_record_costs_no_memory_and_no_panic(at in 0..300_usize, byte: u8, noise in prop::collection::vec(any::<u8>(), 0..200)) {
        // Behind a right checksum, so that the tree itself is read.
        let mut record = bytes_of(&packed(&sample(), FORCED)).to_vec();
        let place = HEAD_BYTES + at % (record.len() - HEAD_BYTES);
        record[place] = byte;
        let tree = u32::from_le_bytes([record[4], record[5], record[6], record[7]]) as usize;
        let begin = (HEAD_BYTES + tree).next_multiple_of(ALIGNMENT);
        let checksum = read::checksum(&record[..begin]);
        record[24..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(value) = open(&record.into()) {
            let _ = Packed::new(&value, &BufferPool::new(0));
        }
        let _ = open(&noise.into());
    }
}

/// `docs/formats.md` describes this record byte by byte.
#[test]
fn a_record_looks_as_it_always_did() {
    let tensor =
        Tensor::from_bytes(DType::U16, &[2, 3], vec![1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0].into()).expect("a tensor");
    let value = Value::Dict(Dict::from_iter([("x", Value::from(tensor)), ("n", Value::from(-3_i64))]));
    let digit = |half: u8| char::from_digit(u32::from(half), 16);
    let hex = |bytes: &[u8]| bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(digit).collect::<String>();
    let record = bytes_of(&packed(&value, FORCED));
    assert_eq!(hex(&record[..24]), "485752011b0000000a000000000000000c00000000000000");
    // A dict of two: "x", a tensor uint16 [2, 3] of 12 bytes at 0 in one block of 10; "n", -3.
    let tree = "0c02070178110f010202030c000a9d06c954cdad8a2507016e0305";
    assert_eq!(hex(&record[HEAD_BYTES..HEAD_BYTES + 0x1b]), tree);
    assert!(record[HEAD_BYTES + 0x1b..64].iter().all(|&byte| byte == 0));
    // In planes: the low bytes as they are, the high ones all zero.
    assert_eq!(hex(&record[64..]), "01010001020304050600");
}
