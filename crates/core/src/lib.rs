//! Keeps the accelerator fed: streams training samples from object storage into batches.
//!
//! A [`dataset::Dataset`] is opened from a [`config::DatasetConfig`] and read by index, from any thread:
//!
//! ```no_run
//! use headwater::config::DatasetConfig;
//! use headwater::dataset::Dataset;
//! use headwater::engine::uninterrupted;
//!
//! let config = DatasetConfig::from_json(r#"{"fields": {"latents": "s3://bucket/latents", "conditions": "/data/conditions"}}"#)?;
//! let dataset = Dataset::open(&config, uninterrupted())?;
//! let samples = dataset.get_many(&[0, 1, 2], uninterrupted())?;
//! println!("{} {:?}", samples[0].key, samples[0].field("latents"));
//! # Ok::<(), headwater::Error>(())
//! ```
//!
//! The modules lie in layers: [`error`], [`value`], [`sample`], [`world`], [`metrics`] and [`buffer`] are the vocabulary;
//! [`source`], [`codec`] and [`engine`] the seams; [`fetch`], [`mod@format`], [`manifest`], [`cache`] and [`order`] stages that do
//! not know each other; [`config`], [`dataset`], [`keyed`], [`object`] and [`simulate`] bring them together.

pub mod buffer;
pub mod cache;
pub mod clock;
pub mod codec;
pub mod collate;
pub mod config;
pub mod dataset;
pub mod engine;
pub mod error;
pub mod export;
pub mod fetch;
pub mod format;
pub mod keyed;
pub mod loader;
pub mod manifest;
pub mod metrics;
pub mod object;
pub mod order;
mod per_process;
pub mod prefetch;
pub mod sample;
pub mod simulate;
pub mod source;
pub mod state;
mod sync;
pub mod value;
pub mod verdict;
mod words;
pub mod world;

pub use error::{Error, ErrorKind, Result};
pub use loader::Loader;
