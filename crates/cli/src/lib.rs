//! The `headwater` command.
use std::ffi::OsString;
/// x
pub fn run(_: impl IntoIterator<Item = OsString>) -> u8 {
    0
}
