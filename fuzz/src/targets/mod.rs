//! What is fuzzed: readers of bytes that may say anything, one file each. A target tells whether the bytes were something, and panics where
//! its reader is wrong.
//!
//! `fuzz_targets` have libFuzzer drive them by coverage (`make fuzz`); `crates/core/tests/it/mutations.rs` compiles them a second time
//! and has them read all that is stored in `seeds`, and mutations of it.

pub mod cache_file;
pub mod pt;
pub mod record;
pub mod tensors;
