//! Packed records: whatever the bytes say, opening, verifying and unpacking end with a value or an error.
#![no_main]

use headwater::buffer::BufferPool;
use headwater::format::record;
use headwater::value::Packed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = data.to_vec().into();
    let _ = record::verify(&bytes);
    if let Ok(value) = record::open(&bytes) {
        let _ = Packed::new(&value, &BufferPool::new(0));
    }
});
