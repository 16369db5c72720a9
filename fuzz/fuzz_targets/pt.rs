//! See `headwater_fuzz::targets::pt`.
#![no_main]

use headwater_fuzz::targets::pt;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    pt::read(data);
});
