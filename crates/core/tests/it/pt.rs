use std::fmt::Write;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use headwater::buffer::BufferPool;
use headwater::format::{Limits, decode_object, pt};
use headwater::value::{DType, Dict, Tensor, Value};
use headwater::{Error, ErrorKind, Result};
use proptest::prelude::*;

fn decode(bytes: impl Into<Bytes>) -> Result<Value> {
    let limits = Limits { max_bytes: 1 << 30, max_nodes: 100_000, ..Limits::default() };
    decode_object("place/x.pt", &bytes.into(), &limits, &BufferPool::new(1 << 20)).map(|mut values| values.remove(0).1)
}

fn refused(bytes: impl Into<Bytes>, what: &str) -> Error {
    // The value may be gigabytes: it is not for a message.
    let error = decode(bytes).map(drop).expect_err(what);
    assert!(error.to_string().contains("place/x.pt"), "{what}: {error}");
    error
}

// ---- files that torch wrote

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The text that `tests/make_golden_pt.py` writes of the same value.
fn render(value: &Value) -> String {
    let list = |items: &[Value]| items.iter().map(render).collect::<Vec<_>>().join(", ");
    match value {
        Value::None => "None".into(),
        Value::Bool(it) => if *it { "True" } else { "False" }.into(),
        Value::Int(it) => format!("int {it}"),
        Value::BigInt(it) => format!("int {}", hex(it)),
        Value::Float(it) => format!("float {}", hex(&it.to_be_bytes())),
        Value::Complex(re, im) => format!("complex {} {}", hex(&re.to_be_bytes()), hex(&im.to_be_bytes())),
        Value::Str(it) => format!("str {}", hex(it.as_bytes())),
        Value::Bytes(it) => format!("bytes {}", hex(it)),
        Value::List(it) => format!("list[{}]", list(it)),
        Value::Tuple(it) => format!("tuple[{}]", list(it)),
        Value::Set(it) => format!("set[{}]", list(it)),
        Value::Dict(it) => {
            let pairs: Vec<_> =
                it.items.iter().map(|(key, value)| format!("{}: {}", render(key), render(value))).collect();
            format!("{}{{{}}}", if it.ordered { "OrderedDict" } else { "dict" }, pairs.join(", "))
        }
        Value::Size(it) => format!("Size{it:?}"),
        Value::DType(it) => format!("torch.{it}"),
        Value::Device(it) => it.clone(),
        Value::Tensor(it) => {
            let strides = if it.nbytes() == 0 { "-".into() } else { format!("{:?}", it.strides()) };
            let bytes = it.to_contiguous().expect("plain");
            format!("{} {:?} {strides} {}", it.dtype(), it.shape(), hex(bytes.contiguous_bytes().expect("contiguous")))
        }
    }
}

pub(super) fn goldens() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pt");
    let paths = fs::read_dir(folder).expect("goldens").map(|entry| entry.expect("entry").path());
    let files = paths.filter(|path| path.extension().is_some_and(|suffix| suffix == "pt"));
    let mut goldens: Vec<_> =
        files.map(|path| (path.to_string_lossy().into_owned(), fs::read(&path).expect("readable"))).collect();
    goldens.sort();
    assert!(goldens.len() >= 38, "{} goldens", goldens.len());
    goldens
}

#[test]
fn reads_what_torch_wrote() {
    for (path, bytes) in goldens() {
        let expected = fs::read_to_string(path.replace(".pt", ".txt")).expect("text");
        let value = decode(bytes).unwrap_or_else(|error| panic!("{path}: {}", error.report()));
        assert_eq!(render(&value), expected.trim_end(), "{path}");
    }
}

#[test]
fn flipped_bits_are_refused_or_change_nothing() {
    let (mut flips, mut refusals) = (0, 0);
    for (path, bytes) in goldens().into_iter().filter(|(path, _)| path.contains(".p2.")) {
        let whole = render(&decode(bytes.clone()).expect("whole"));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            flips += 1;
            match decode(flipped) {
                Ok(value) => assert_eq!(render(&value), whole, "{path} flipped at {at}"),
                Err(error) => {
                    assert!(error.to_string().contains("place/x.pt"), "{error}");
                    refusals += 1;
                }
            }
        }
    }
    assert!(refusals > 1000 && flips > refusals, "{refusals} of {flips} refused");
}

// ---- what we write

fn tensors() -> impl Strategy<Value = Tensor> {
    let dtype = (0..DType::ALL.len()).prop_map(|number| DType::ALL[number]);
    let shape = prop::collection::vec(0_usize..4, 0..4);
    (dtype, shape, any::<u64>(), any::<bool>()).prop_map(|(dtype, shape, seed, reversed)| {
        let numel: usize = shape.iter().product();
        let mut state = seed;
        let data: Vec<u8> = (0..numel * dtype.size())
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let byte = (state >> 56) as u8;
                if dtype == DType::Bool { byte & 1 } else { byte }
            })
            .collect();
        if !reversed || numel == 0 {
            return Tensor::from_bytes(dtype, &shape, data.into()).expect("fits");
        }
        let mut strides = vec![1; shape.len()];
        for dim in 1..shape.len() {
            strides[dim] = strides[dim - 1] * shape[dim - 1];
        }
        Tensor::new(dtype, &shape, &strides, data.into(), 0).expect("fits")
    })
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(|bits| Value::Float(f64::from_bits(bits))),
        any::<(u64, u64)>().prop_map(|(re, im)| Value::Complex(f64::from_bits(re), f64::from_bits(im))),
        ".*".prop_map(Value::Str),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Value::Bytes(bytes.into())),
        prop::collection::vec(any::<i64>(), 0..4).prop_map(Value::Size),
        (0..DType::ALL.len()).prop_map(|number| Value::DType(DType::ALL[number])),
        tensors().prop_map(Value::Tensor),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let items = prop::collection::vec(inner.clone(), 0..6);
        let pairs = prop::collection::vec((inner.clone(), inner), 0..6);
        prop_oneof![
            items.clone().prop_map(Value::List),
            items.clone().prop_map(Value::Tuple),
            items.prop_map(Value::Set),
            (pairs, any::<bool>()).prop_map(|(items, ordered)| Value::Dict(Dict { items, ordered })),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(value in values()) {
        let written = pt::write_pt(&value).expect("writes");
        prop_assert_eq!(decode(written).expect("reads"), value);
    }

    #[test]
    fn no_bytes_at_all_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(pickled(&bytes));
        let _ = decode(bytes);
    }
}

#[test]
fn tensors_that_share_bytes_share_a_storage() {
    let bytes = Bytes::from(vec![7_u8; 100_000]);
    let tensor = Tensor::from_bytes(DType::U8, &[100_000], bytes.clone()).expect("tensor");
    let part = Tensor::new(DType::U8, &[10], &[3], bytes, 50).expect("part");
    let written = pt::write_pt(&Value::List(vec![tensor.into(), part.into()])).expect("writes");
    assert!(written.len() < 110_000, "{} bytes", written.len());
}

#[test]
fn more_tensors_than_an_old_zip_counts_read_back() {
    // With the pickle, the byte order and the version, 65,531 tensors are the most for a directory of the old kind.
    for count in [65_531_u32, 65_532, 65_533, 65_536] {
        let tensor = |n: u32| Tensor::from_bytes(DType::U32, &[], n.to_le_bytes().to_vec().into()).expect("tensor");
        let value = Value::List((0..count).map(|n| tensor(n).into()).collect());
        assert!(decode(pt::write_pt(&value).expect("writes")).expect("reads") == value, "{count} tensors");
    }
}

// ---- hostile input

fn entry(name: &str, method: u16, content: &[u8], checksum: u32) -> [Vec<u8>; 2] {
    let mut common = Vec::new();
    [0_u16, method, 0, 0].iter().for_each(|field| common.extend_from_slice(&field.to_le_bytes()));
    [checksum, content.len() as u32, content.len() as u32]
        .iter()
        .for_each(|field| common.extend_from_slice(&field.to_le_bytes()));
    common.extend_from_slice(&(name.len() as u16).to_le_bytes());
    let local = [&b"PK\x03\x04\x14\0"[..], &common, &[0; 2], name.as_bytes(), content].concat();
    let central = [&b"PK\x01\x02\x14\0\x14\0"[..], &common, &[0; 12]].concat();
    [local, central]
}

/// A zip of stored entries, without checksums unless `method` says compressed.
fn zipped(entries: &[(&str, u16, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, method, content) in entries {
        let [local, central] = entry(name, *method, content, 0);
        directory.extend_from_slice(&central);
        directory.extend_from_slice(&(out.len() as u32).to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&local);
    }
    let (offset, size, count) = (out.len() as u32, directory.len() as u32, entries.len() as u16);
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    [count, count].iter().for_each(|field| out.extend_from_slice(&field.to_le_bytes()));
    [size, offset].iter().for_each(|field| out.extend_from_slice(&field.to_le_bytes()));
    out.extend_from_slice(&[0; 2]);
    out
}

fn pickled(pickle: &[u8]) -> Vec<u8> {
    zipped(&[("archive/data.pkl", 0, pickle), ("archive/data/0", 0, &[1; 16])])
}

const STORAGE: &[u8] = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ";

/// `_rebuild_tensor_v2(storage, offset, size, stride, False, None)`, the middle as given.
fn tensor_pickle(middle: &[u8]) -> Vec<u8> {
    [b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(", STORAGE, middle, b"\x89NtR."].concat()
}

#[test]
fn the_hand_made_tensor_is_right_before_it_is_made_wrong() {
    let value = decode(pickled(&tensor_pickle(b"K\0K\x04\x85K\x01\x85"))).expect("reads");
    assert_eq!(render(&value), format!("float32 [4] [1] {}", "01".repeat(16)));
}

#[test]
fn tensors_that_leave_their_storage_are_refused() {
    for (middle, what) in [
        (&b"K\0K\x05\x85K\x01\x85"[..], "too long"),
        (b"K\x01K\x04\x85K\x01\x85", "offset too far"),
        (b"K\0K\x02\x85K\x04\x85", "stride too far"),
        (b"K\0K\x04\x85J\xff\xff\xff\xff\x85", "negative stride"),
        (b"J\xff\xff\xff\xffK\x04\x85K\x01\x85", "negative offset"),
        (b"K\0\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85K\0\x85", "more elements than there are bytes in the world"),
        (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x04\x85K\x01\x85", "overflowing offset"),
        (b"K\0K\x04\x85K\x01K\x01\x86", "dimensions that differ"),
        (b"K\0NK\x01\x85", "no shape"),
    ] {
        assert_eq!(refused(pickled(&tensor_pickle(middle)), what).kind(), ErrorKind::Corrupt, "{what}");
    }
}

#[test]
fn a_payload_is_named_and_not_run() {
    let marker = std::env::temp_dir().join(format!("headwater-owned-{}", std::process::id()));
    let command = format!("touch {}", marker.display());
    let payload =
        [b"\x80\x02cposix\nsystem\nX", &(command.len() as u32).to_le_bytes()[..], command.as_bytes(), b"\x85R."]
            .concat();
    let error = refused(pickled(&payload), "payload");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.report().contains("`posix.system`") && error.report().contains("at offset"), "{}", error.report());
    assert!(!marker.exists());
    for global in [
        "builtins\neval",
        "builtins\ngetattr",
        "torch.load\n",
        "torch.utils.data\nDataLoader",
        "os\nsystem",
        "torch\nload",
    ] {
        let error = refused(pickled(format!("c{global}\n.").as_bytes()), global);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{global}");
    }
}

#[test]
fn bombs_cost_no_more_than_they_weigh() {
    let laughs = {
        // Each list holds the one before ten times.
        let mut pickle = b"]q\0".to_vec();
        for level in 0..30_u8 {
            pickle.extend_from_slice(b"](");
            (0..10).for_each(|_| pickle.extend_from_slice(&[b'h', level]));
            pickle.extend_from_slice(&[b'e', b'q', level + 1]);
        }
        [&pickle[..], b"."].concat()
    };
    let text = [b"X\0\0\x10\0", &vec![b'x'; 1 << 20][..], b"q\0](", &b"h\0".repeat(10_000), b"e."].concat();
    for (pickle, what) in [
        (laughs, "billion laughs"),
        (text, "one text ten thousand times"),
        (b"(".repeat(1_000_000), "marks"),
        ([&b"]".repeat(100_000)[..], &b"a".repeat(99_999), b"."].concat(), "nesting"),
        (b"]q\0h\0a.".to_vec(), "a list in itself"),
        (b"}q\0K\x01h\0s.".to_vec(), "a dict in itself"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.".to_vec(), "text of eight exabytes"),
        (b"\x8b\xff\xff\xff\x7f.".to_vec(), "an integer of two gigabytes"),
        (b"B\xff\xff\xff\xff.".to_vec(), "bytes of four gigabytes"),
        (b"Nr\xff\xff\xff\xff.".to_vec(), "memo entry four billion"),
        (b"Nj\xff\xff\xff\xff.".to_vec(), "an entry that was never made"),
        (b".".to_vec(), "nothing on the stack"),
        (b"N".to_vec(), "no end"),
        (b"(e.".to_vec(), "items for nothing"),
        (b"K\x01K\x02R.".to_vec(), "a call of a number"),
        (b"\x80\x09N.".to_vec(), "protocol nine"),
        (b"itorch\nload\n.".to_vec(), "an old opcode"),
        (b"ctorch\nfloat32\n)R.".to_vec(), "a call of a dtype"),
        (b"ctorch\nFloatStorage\n.".to_vec(), "a storage class as value"),
        ([STORAGE, b"."].concat(), "a storage as value"),
    ] {
        refused(pickled(&pickle), what);
    }
}

/// Pickles that make one thing of `each` call, over and over, from what they memoised as 0.
fn repeated(memoised: &[u8], each: &[u8]) -> Vec<u8> {
    [b"\x80\x02", memoised, b"q\x000](", &each.repeat(3000), b"e."].concat()
}

#[test]
fn what_is_memoised_once_is_not_copied_without_end() {
    let ints = [b"(", &b"K\x01".repeat(100_000)[..], b"t"].concat();
    let letters = [b"X\0\0\x10\0", &vec![b'a'; 1 << 20][..]].concat();
    let bytes = [b"B\0\0\x10\0", &vec![b'a'; 1 << 20][..]].concat();
    let big = [b"\x8b\0\0\x10\0", &vec![b'a'; 1 << 20][..]].concat();
    let size = [b"ctorch\nSize\n", &ints[..], b"\x85R"].concat();
    let device = [b"ctorch\ndevice\n", &letters[..], b"\x85R"].concat();
    let metadata = [b"}(", &b"X\x04\0\0\0conj\x88".repeat(100_000)[..], b"u"].concat();
    let shape = [b"ctorch._utils\n_rebuild_tensor_v2\n(", STORAGE, b"K\0h\0h\0\x89NtR"].concat();
    let marks = marked("ComplexFloatStorage", 2, b"K\0K\x02\x85K\x01\x85", b"h\0");
    for (memoised, each, what) in [
        (&ints, &b"ctorch\nSize\nh\0\x85R"[..], "sizes"),
        (&ints, b"cbuiltins\nset\nh\0\x85R", "sets"),
        (&ints, &shape, "shapes"),
        (&letters, b"c_codecs\nencode\nh\0X\x06\0\0\0latin1\x86R", "encoded text"),
        (&letters, b"ctorch\ndevice\nh\0\x85R", "devices"),
        (&letters, b"ctorch\ndevice\nh\0K\0\x86R", "numbered devices"),
        (&letters, b"h\0", "text"),
        (&bytes, b"h\0", "bytes"),
        (&big, b"h\0", "an integer"),
        (&size, b"h\0", "a size"),
        (&device, b"h\0", "a device"),
        (&metadata, &marks, "metadata"),
    ] {
        refused(pickled(&repeated(memoised, each)), what);
    }
}

#[test]
fn what_is_too_deep_to_read_is_not_written() {
    let nested = |depth| (1..depth).fold(Value::List(Vec::new()), |inner, _| Value::List(vec![inner]));
    let deepest = nested(Limits::default().max_depth);
    assert!(decode(pt::write_pt(&deepest).expect("writes")).expect("reads") == deepest);
    let error = pt::write_pt(&nested(Limits::default().max_depth + 1)).map(drop).expect_err("too deep");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn a_little_that_is_repeated_is_read() {
    let size = decode(pickled(&repeated(b"(K\x01K\x02t", b"ctorch\nSize\nh\0\x85R"))).expect("sizes");
    assert_eq!(size, Value::List(vec![Value::Size(vec![1, 2]); 3000]));
    let device = decode(pickled(&repeated(b"X\x03\0\0\0cpu", b"ctorch\ndevice\nh\0\x85R"))).expect("devices");
    assert_eq!(device, Value::List(vec![Value::Device("cpu".into()); 3000]));
}

#[test]
fn tensors_have_as_many_dimensions_as_torch_makes() {
    let of_dims = |dims: usize| {
        let ones = [b"(", &b"K\x01".repeat(dims)[..], b"t"].concat();
        decode(pickled(&tensor_pickle(&[b"K\0", &ones[..], &ones].concat())))
    };
    of_dims(64).expect("64 dimensions");
    let error = of_dims(65).expect_err("65 dimensions");
    assert!(error.report().contains("65 dimensions"), "{}", error.report());
}

#[test]
fn long_lists_are_read_whether_or_not_their_items_are_shared() {
    let limits = Limits { max_nodes: 1000, ..Limits::default() };
    let read = |bytes: Vec<u8>| decode_object("x.pt", &bytes.into(), &limits, &BufferPool::new(0));
    let numbers = Value::List((0..200_000).map(Value::Int).collect());
    let again = read(pt::write_pt(&numbers).expect("writes")).expect("numbers");
    assert!(again[0].1 == numbers);
    let shared = [b"X\x01\0\0\0aq\0](", &b"h\0".repeat(200_000)[..], b"e."].concat();
    let again = read(pickled(&shared)).expect("shared text");
    assert!(again[0].1 == Value::List(vec![Value::Str("a".into()); 200_000]));
}

#[test]
fn a_cap_that_is_hit_is_unsupported() {
    let tens = b"](h\0h\0h\0h\0h\0h\0h\0h\0h\0h\0eq\0".repeat(8);
    let letters = [b"X\0\0\x10\0", &vec![b'a'; 1 << 20][..]].concat();
    let ints = [b"(", &b"K\x01".repeat(100_000)[..], b"t"].concat();
    let ones = [b"(", &b"K\x01".repeat(65)[..], b"t"].concat();
    for (pickle, what) in [
        ([b"Nq\0", &tens[..], b"."].concat(), "values"),
        (repeated(&letters, b"h\0"), "text"),
        (repeated(&ints, b"ctorch\nSize\nh\0\x85R"), "copies"),
        (tensor_pickle(&[b"K\0", &ones[..], &ones].concat()), "dimensions"),
        (b"(".repeat(1000), "marks"),
        ([&b"]".repeat(65)[..], &b"a".repeat(64), b"."].concat(), "nesting"),
    ] {
        assert_eq!(refused(pickled(&pickle), what).kind(), ErrorKind::Unsupported, "{what}");
    }
}

#[test]
fn zips_that_lie_are_refused() {
    let none = &b"N."[..];
    let fine = zipped(&[("archive/data.pkl", 0, none)]);
    assert_eq!(decode(fine.clone()).expect("reads"), Value::None);
    let directory = fine.len() - 22 - 46 - 16;
    let patched = |at: usize, bytes: &[u8]| {
        let mut zip = fine.clone();
        zip[at..at + bytes.len()].copy_from_slice(bytes);
        zip
    };
    for (zip, what, kind) in [
        (zipped(&[("archive/data.pkl", 8, none)]), "a compressed entry", ErrorKind::Unsupported),
        (zipped(&[("archive/other", 0, none)]), "no pickle", ErrorKind::Unsupported),
        (zipped(&[("data.pkl", 0, none)]), "a pickle in no folder", ErrorKind::Unsupported),
        (zipped(&[("a/data.pkl", 0, none), ("b/data.pkl", 0, none)]), "two pickles", ErrorKind::Corrupt),
        (zipped(&[("a/data.pkl", 0, none), ("a/data.pkl", 0, none)]), "one name twice", ErrorKind::Corrupt),
        (zipped(&[("a/data.pkl", 0, none), ("a/constants.pkl", 0, none)]), "TorchScript", ErrorKind::Unsupported),
        (zipped(&[("a/data.pkl", 0, none), ("a/byteorder", 0, b"middle")]), "a third byte order", ErrorKind::Corrupt),
        (
            zipped(&[("archive/data.pkl", 0, &tensor_pickle(b"K\0K\x04\x85K\x01\x85"))]),
            "no storage",
            ErrorKind::Corrupt,
        ),
        (
            zipped(&[("archive/data.pkl", 0, &tensor_pickle(b"K\0)K)")), ("archive/data/0", 0, &[0; 3])]),
            "a short storage",
            ErrorKind::Corrupt,
        ),
        (patched(directory + 20, &[200, 0, 0, 0, 200]), "an entry longer than the file", ErrorKind::Corrupt),
        (patched(directory + 24, &[9]), "two lengths", ErrorKind::Corrupt),
        (patched(directory + 42, &[9]), "a header elsewhere", ErrorKind::Corrupt),
        (patched(30, b"x"), "two names", ErrorKind::Corrupt),
        (patched(fine.len() - 22 + 10, &[9, 0]), "more entries than there are", ErrorKind::Corrupt),
        (patched(fine.len() - 22 + 16, &[0xFF; 4]), "a zip64 directory that is not there", ErrorKind::Corrupt),
        (b"PK\x03\x04".to_vec(), "nothing but a beginning", ErrorKind::Corrupt),
        (b"not a torch file at all".to_vec(), "something else", ErrorKind::Corrupt),
        (Vec::new(), "nothing", ErrorKind::Corrupt),
    ] {
        assert_eq!(refused(zip, what).kind(), kind, "{what}");
    }
}

#[test]
fn entries_that_overlap_are_refused() {
    let inner = zipped(&[("a/data.pkl", 0, b"N.")]);
    let mut zip = zipped(&[("a/x", 0, &inner), ("a/data.pkl", 0, b"N.")]);
    // The second entry's header is moved into the first one's content, where there is one like it.
    let end = zip.len() - 22;
    let pointer = end - 10 - 4;
    let inside = zip.windows(4).enumerate().filter(|(_, four)| four == b"PK\x03\x04").nth(1).expect("inner").0 as u32;
    zip[pointer..pointer + 4].copy_from_slice(&inside.to_le_bytes());
    let error = refused(zip, "overlap");
    assert!(error.report().contains("overlap"), "{}", error.report());
}

// ---- signs that torch marks

const CONJ: &[u8] = b"}(X\x04\0\0\0conj\x88X\x03\0\0\0neg\x89u";
const NEG: &[u8] = b"}(X\x04\0\0\0conj\x89X\x03\0\0\0neg\x88u";
const BOTH: &[u8] = b"}(X\x04\0\0\0conj\x88X\x03\0\0\0neg\x88u";

/// A call of `_rebuild_tensor_v2` on 16 bytes of storage, with metadata.
fn marked(class: &str, numel: u8, middle: &[u8], metadata: &[u8]) -> Vec<u8> {
    let storage = format!("(X\x07\0\0\0storagectorch\n{class}\nX\x01\0\0\x000X\x03\0\0\0cpuK");
    let head = [b"ctorch._utils\n_rebuild_tensor_v2\n(", storage.as_bytes(), &[numel], b"tQ"].concat();
    [&head[..], middle, b"\x89N", metadata, b"tR"].concat()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    let plain = tensor.to_contiguous().expect("plain");
    let (parts, _) = plain.contiguous_bytes().expect("contiguous").as_chunks::<4>();
    parts.iter().map(|&part| f32::from_le_bytes(part)).collect()
}

/// Decodes calls that make tensors of the storage 1, 2, 3, 4.
fn tensors_of(calls: &[u8]) -> Result<Vec<Tensor>> {
    let pickle = [b"\x80\x02](", calls, b"e."].concat();
    let data: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|number| number.to_le_bytes()).collect();
    let Value::List(items) = decode(zipped(&[("a/data.pkl", 0, &pickle), ("a/data/0", 0, &data)]))? else {
        panic!("no list");
    };
    let tensor = |item| if let Value::Tensor(tensor) = item { tensor } else { panic!("no tensor: {item:?}") };
    Ok(items.into_iter().map(tensor).collect())
}

#[test]
fn marked_signs_are_turned_round() {
    let (all, second) = (b"K\0K\x02\x85K\x01\x85", b"K\x01K\x03\x85K\0\x85");
    let imaginary = b"K\x01K\x02\x85K\x02\x85";
    for (class, numel, middle, metadata, expected, what) in [
        ("ComplexFloatStorage", 2, &all[..], CONJ, &[1.0, -2.0, 3.0, -4.0][..], "conj"),
        ("ComplexFloatStorage", 2, all, NEG, &[-1.0, -2.0, -3.0, -4.0], "neg"),
        ("ComplexFloatStorage", 2, all, BOTH, &[-1.0, 2.0, -3.0, 4.0], "both"),
        ("ComplexFloatStorage", 2, all, b"}", &[1.0, 2.0, 3.0, 4.0], "nothing marked"),
        ("ComplexFloatStorage", 2, second, CONJ, &[3.0, -4.0, 3.0, -4.0, 3.0, -4.0], "an expanded view"),
        ("FloatStorage", 4, imaginary, NEG, &[-2.0, -4.0], "imaginary parts"),
    ] {
        let tensors = tensors_of(&marked(class, numel, middle, metadata)).expect(what);
        assert_eq!(floats(&tensors[0]), expected, "{what}");
    }
}

#[test]
fn other_marks_are_refused_by_name() {
    let all = b"K\0K\x04\x85K\x01\x85";
    for (class, metadata, word) in [
        ("FloatStorage", &b"}X\x05\0\0\0fancy\x88s"[..], "`fancy`"),
        ("FloatStorage", b"}X\x04\0\0\0conjK\x01s", "`conj`"),
        ("FloatStorage", CONJ, "marked sign on float32"),
        ("IntStorage", NEG, "marked sign on int32"),
    ] {
        let error = tensors_of(&marked(class, 4, all, metadata)).expect_err(word);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report());
        assert!(error.report().contains(word), "{}", error.report());
    }
}

#[test]
fn marked_tensors_are_turned_round_once_per_storage() {
    let conj = marked("ComplexFloatStorage", 2, b"K\0K\x02\x85K\x01\x85", CONJ);
    let tensors = tensors_of(&[&conj[..], b"q\0", &b"h\0".repeat(3), &conj].concat()).expect("reads");
    let places: Vec<_> = tensors.iter().map(|tensor| tensor.storage().0.as_ptr()).collect();
    assert_eq!(places, [places[0]; 5]);
}
