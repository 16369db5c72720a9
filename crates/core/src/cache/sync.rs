//! The locks of this module, in one place, so that its files can be compiled over others: the tests of
//! `crates/core/tests/it/interleavings.rs` run them under a scheduler that tries every interleaving.

pub(super) use crate::sync::Mutex;
pub(super) use std::sync::Arc;
pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
