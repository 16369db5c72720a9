use bytes::Bytes;
use headwater::format::{npy::Npy, pt::Pt, safetensors::Safetensors};
use headwater_testkit::conformance;

#[test]
fn pt_conforms() {
    let samples: Vec<Bytes> = super::pt::goldens().into_iter().map(|(_, bytes)| bytes.into()).collect();
    conformance::decoder(&Pt, &samples);
}

#[test]
fn safetensors_conforms() {
    let two = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},
        "a":{"dtype":"I16","shape":[2,1],"data_offsets":[0,4]}}"#;
    conformance::decoder(&Safetensors, &[safetensors(two, &[1, 0, 2, 0, 3, 0, 4, 0]), safetensors("{}", &[])]);
}

#[test]
fn npy_conforms() {
    let plain = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n", &[0; 8]);
    let turned = npy("{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }\n", &[7; 12]);
    let scalar = npy("{'descr': '|b1', 'fortran_order': False, 'shape': (), }\n", &[1]);
    conformance::decoder(&Npy, &[plain, turned, scalar]);
}

fn safetensors(header: &str, data: &[u8]) -> Bytes {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat().into()
}

fn npy(header: &str, data: &[u8]) -> Bytes {
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat().into()
}
