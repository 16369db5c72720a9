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

mod normal;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use half::bf16;
use headwater::object;
use headwater::value::{DType, Dict, Tensor, Value};
use headwater::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use normal::Normal;

const VERSION: u32 = 1;
/// Written last: where it is, the set is whole.
const MARKER: &str = "demo-set.json";
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

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    version: u32,
    seed: u64,
    samples: u32,
    scale: Scale,
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
    /// `Invalid` when the directory holds something else; `Io`, `Denied`.
    pub fn write(&self, directory: &Path, wrote: &(dyn Fn() + Sync)) -> Result<Outcome> {
        let failed = |cause| Error::io("write the demo set to", directory.display(), cause);
        let marker = Marker { version: VERSION, seed: self.seed, samples: self.samples, scale: self.scale };
        match kept_marker(directory)? {
            Some(kept) if kept == marker => return Ok(Outcome::Complete),
            Some(_) => {
                return Err(refused(directory, "it holds another demo set; remove it, or choose another directory"));
            }
            None => refuse_foreign(directory)?,
        }
        for folder in [LATENTS, CONDITIONS] {
            fs::create_dir_all(directory.join(folder)).map_err(failed)?;
        }
        self.write_samples(directory, wrote)?;
        let text = serde_json::to_string(&marker).unwrap_or_default() + "\n";
        fs::write(directory.join(MARKER), text).map_err(failed)?;
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
                object::save(&latents, &self.latents(sample))
                    .and_then(|()| object::save(&conditions, &self.conditions(sample)))
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

fn kept_marker(directory: &Path) -> Result<Option<Marker>> {
    let path = directory.join(MARKER);
    match fs::read_to_string(&path) {
        Ok(text) => match serde_json::from_str(&text) {
            Ok(marker) => Ok(Some(marker)),
            Err(_) => Err(refused(directory, "its demo-set.json is of another version; choose another directory")),
        },
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::io("read", path.display(), cause)),
    }
}

/// An interrupted run leaves the two folders, which are filled again; anything else is not ours.
fn refuse_foreign(directory: &Path) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(Error::io("look into", directory.display(), cause)),
    };
    for entry in entries {
        let name = entry.map_err(|cause| Error::io("look into", directory.display(), cause))?.file_name();
        if name != LATENTS && name != CONDITIONS {
            return Err(refused(directory, "it is not empty and holds no demo set; choose another directory"));
        }
    }
    Ok(())
}

fn refused(directory: &Path, reason: &str) -> Error {
    Error::new(ErrorKind::Invalid, "write the demo set to", directory.display()).because(reason)
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
