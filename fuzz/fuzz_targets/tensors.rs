//! See `headwater_fuzz::targets::tensors`.
#![no_main]

use headwater_fuzz::targets::tensors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    tensors::read(data);
});
