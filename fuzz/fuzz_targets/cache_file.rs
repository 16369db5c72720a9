//! See `headwater_fuzz::targets::cache_file`.
#![no_main]

use std::sync::LazyLock;

use headwater_fuzz::targets::cache_file::Place;
use libfuzzer_sys::fuzz_target;

static PLACE: LazyLock<Place> =
    LazyLock::new(|| Place::new(&std::env::temp_dir().join(format!("headwater-fuzz-{}", std::process::id()))));

fuzz_target!(|data: &[u8]| {
    PLACE.read(data);
});
