//! Any bytes as `.safetensors`, `.npy` and `.zst`: an error or a value, never a panic.
#![no_main]

use headwater::buffer::BufferPool;
use headwater::format::{Limits, decode_object};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let limits = Limits { max_bytes: 1 << 24, max_nodes: 10_000, ..Limits::default() };
    let buffers = BufferPool::new(1 << 20);
    for name in ["fuzz.safetensors", "fuzz.npy", "fuzz.npy.zst"] {
        let _ = decode_object(name, &data.to_vec().into(), &limits, &buffers);
    }
});
