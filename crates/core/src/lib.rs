//! Keeps the accelerator fed: streams training samples from object storage into batches.

pub mod buffer;
pub mod codec;
pub mod engine;
pub mod error;
pub mod format;
pub mod manifest;
pub mod metrics;
pub mod sample;
pub mod source;
pub mod value;
pub mod world;

pub use error::{Error, ErrorKind, Result};
