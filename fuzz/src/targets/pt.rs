//! Any bytes as a `.pt` file: an error or a value, never a panic; what decodes is written and reads back the same.

use headwater::buffer::BufferPool;
use headwater::format::{Limits, decode_object, pt};

/// Expanded tensors may be far larger than the file when they are compared.
const LARGEST: usize = 1 << 20;

/// Whether they are one.
pub fn read(data: &[u8]) -> bool {
    let limits = Limits { max_bytes: 1 << 24, max_nodes: 10_000, ..Limits::default() };
    let buffers = BufferPool::new(1 << 20);
    let decode = |bytes: &[u8]| decode_object("fuzz.pt", &bytes.to_vec().into(), &limits, &buffers);
    let Ok(values) = decode(data) else { return false };
    if values[0].1.tensor_bytes() < LARGEST {
        let written = pt::write_pt(&values[0].1).expect("writes what was read");
        assert_eq!(decode(&written).expect("reads what was written"), values);
    }
    true
}
