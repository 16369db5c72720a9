//! See `headwater_fuzz::targets::record`.
#![no_main]

use headwater_fuzz::targets::record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    record::read(data);
});
