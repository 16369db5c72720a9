//! Any bytes as `.safetensors`, `.npy` and `.zst`: an error or a value, never a panic.

use headwater::buffer::BufferPool;
use headwater::format::{Limits, decode_object};

/// Whether they are one of these.
pub fn read(data: &[u8]) -> bool {
    let limits = Limits { max_bytes: 1 << 24, max_nodes: 10_000, ..Limits::default() };
    let buffers = BufferPool::new(1 << 20);
    let read = |name| decode_object(name, &data.to_vec().into(), &limits, &buffers).is_ok();
    // All of them, whatever the first says.
    ["fuzz.safetensors", "fuzz.npy", "fuzz.npy.zst"].map(read).contains(&true)
}
