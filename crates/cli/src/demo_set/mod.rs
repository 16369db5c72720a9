//! The demo set, version 1: samples like those that video diffusion models are trained on, fixed for good.
//!
//! A sample is a latent object and a condition object. Latents are N(0,1) with a correlation of 0.9 between neighbours in
//! height and width, as a video autoencoder leaves them; conditions are text embeddings of 32 to 256 tokens, padded with
//! zeros, with their attention mask. All are rounded to bfloat16 and kept in float32, which is how precomputed datasets
//! commonly come and what decides how well they compress.
//!
//! Sample `n` is a function of seed and `n` alone, and of no platform's mathematics: `ChaCha8` gives the bits, a table makes
//! them normal ([`normal`]), and only IEEE additions and multiplications follow.

#![allow(clippy::disallowed_methods)] // it writes files

mod marker;
mod normal;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use half::bf16;
use headwater::object;
use headwater::value::{DType, Dict, Tensor, Value};
use headwater::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use marker::Marker;
use normal::Normal;

const LATENTS: &str = "latents";
const CONDITIONS: &str = "conditions";
/// Correlation of neighbours.
const CORRELATION: f32 = 0.9;
/// `sqrt(1 - CORRELATION²)`: what keeps the variance at 1.
const INNOVATION: f32 = 0.435_889_9;
const FRAMES_PER_SECOND: f64 = 24.0;

/// How large a sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// 6.8 MB: latents 128×5×32×32, embeddings 256×4096.
    Full,
    /// 96 KB: latents 16×1×32×32, embeddings 8×1024.
    Small,
}

impl Scale {
    fn latents(self) -> [usize; 4] {
        match self {
            Scale::Full => [128, 5, 32, 32],
            Scale::Small => [16, 1, 32, 32],
        }
    }

    fn embeddings(self) -> [usize; 2] {
        match self {
            Scale::Full => [256, 4096],
            Scale::Small => [8, 1024],
        }
    }
}

/// Whether there was anything to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Samples were written.
    Written,
    /// The very set was there.
    Complete,
}

/// A demo set: what it is, not where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemoSet {
    /// Chooses all random numbers.
    pub seed: u64,
    /// Number of samples.
    pub samples: u32,
    /// Size of each.
    pub scale: Scale,
}

impl DemoSet {
    /// The latent object of a sample.
    pub fn latents(&self, sample: u32) -> Value {
        let shape = self.scale.latents();
        let [_, frames, height, width] = shape;
        let mut normal = Normal::new(self.seed, 2 * u64::from(sample));
        let mut values = vec![0.0; shape.iter().product()];
        for plane in values.chunks_exact_mut(height * width) {
            normal.fill(plane);
            correlate(plane, width);
        }
        let pairs: [(&str, Value); 5] = [
            ("latents", tensor(&values, &shape)),
            ("num_frames", Value::Int(frames as i64)),
            ("height", Value::Int(height as i64)),
            ("width", Value::Int(width as i64)),
            ("fps", Value::Float(FRAMES_PER_SECOND)),
        ];
        Value::Dict(pairs.into_iter().collect())
    }

    /// The condition object of a sample.
    pub fn conditions(&self, sample: u32) -> Value {
        let [tokens, channels] = self.scale.embeddings();
        let mut normal = Normal::new(self.seed, 2 * u64::from(sample) + 1);
        let shortest = tokens / 8;
        let length = shortest + normal.below((tokens - shortest + 1) as u32) as usize;
        let mut values = vec![0.0; tokens * channels];
        normal.fill(&mut values[..length * channels]);
        let mask: Vec<u8> = (0..tokens).map(|token| u8::from(token < length)).collect();
        let mask = Tensor::from_bytes(DType::Bool, &[tokens], mask.into()).map_or(Value::None, Value::Tensor);
        let embeddings = tensor(&values, &[tokens, channels]);
        Value::Dict(Dict::from_iter([("prompt_embeds", embeddings), ("prompt_attention_mask", mask)]))
    }

    /// Writes what is missing of the set into a directory, on all cores. `wrote` is called after each sample.
    ///
    /// # Errors
    /// `Invalid` when the directory holds something else, or another process writes to it; `Io`, `Denied`.
    pub fn write(&self, directory: &Path, wrote: &(dyn Fn() + Sync)) -> Result<Outcome> {
        let _lock = marker::lock(directory)?;
        let marker = Marker::new(self, false);
        if let Some(kept) = Marker::read(directory)? {
            marker.check_same_set(&kept, directory)?;
            if kept.complete {
                return Ok(Outcome::Complete);
            }
        }
        marker.write(directory)?;
        for folder in [LATENTS, CONDITIONS].map(|name| directory.join(name)) {
            fs::create_dir_all(&folder).map_err(|cause| Error::io("make", folder.display(), cause))?;
            marker::remove_temporary(&folder)?;
        }
        self.write_samples(directory, wrote)?;
        Marker::new(self, true).write(directory)?;
        Ok(Outcome::Written)
    }

    /// Bytes of all its objects in a directory.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn stored_bytes(&self, directory: &Path) -> Result<u64> {
        let size = |path: &Path| {
            fs::metadata(path).map(|meta| meta.len()).map_err(|cause| Error::io("look at", path.display(), cause))
        };
        let paths = (0..self.samples).flat_map(|sample| paths(directory, sample));
        paths.map(|path| size(&path)).sum()
    }

    fn write_samples(&self, directory: &Path, wrote: &(dyn Fn() + Sync)) -> Result<()> {
        let (next, failed) = (AtomicU32::new(0), AtomicBool::new(false));
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let sample = next.fetch_add(1, Ordering::Relaxed);
                if sample >= self.samples {
                    break;
                }
                let [latents, conditions] = paths(directory, sample);
                save_missing(&latents, || self.latents(sample))
                    .and_then(|()| save_missing(&conditions, || self.conditions(sample)))
                    .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                wrote();
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let joined = handles.into_iter().map(|handle| {
                handle.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "write", "the demo set")))
            });
            joined.collect()
        })
    }
}

fn paths(directory: &Path, sample: u32) -> [std::path::PathBuf; 2] {
    let file = |folder: &str, name: &str| directory.join(folder).join(format!("{name}_{sample:05}.pt"));
    [file(LATENTS, "latent"), file(CONDITIONS, "condition")]
}

/// What is there under its own name is whole.
fn save_missing(path: &Path, value: impl FnOnce() -> Value) -> Result<()> {
    if path.exists() { Ok(()) } else { object::save(path, &value()) }
}

/// Makes white noise correlated along the rows, then along the columns.
fn correlate(plane: &mut [f32], width: usize) {
    for row in plane.chunks_exact_mut(width) {
        for at in 1..width {
            row[at] = CORRELATION * row[at - 1] + INNOVATION * row[at];
        }
    }
    for at in width..plane.len() {
        plane[at] = CORRELATION * plane[at - width] + INNOVATION * plane[at];
    }
}

/// Rounds to bfloat16 and keeps float32.
fn tensor(values: &[f32], shape: &[usize]) -> Value {
    let bytes: Vec<u8> = values.iter().flat_map(|&value| bf16::from_f32(value).to_f32().to_le_bytes()).collect();
    Tensor::from_bytes(DType::F32, shape, bytes.into()).map_or(Value::None, Value::Tensor)
}
