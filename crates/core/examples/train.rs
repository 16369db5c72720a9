//! A training loop in Rust over any dataset:
//!
//! ```sh
//! cargo run --release --example train -- s3://bucket/run
//! cargo run --release --example train            # writes a small set of its own and reads that
//! ```
//!
//! The "model" is the running mean of the first tensor of every batch: enough to touch every byte.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)] // a program

use std::path::Path;
use std::process::ExitCode;

use headwater::config::{DatasetConfig, LoaderConfig};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::loader::Batch;
use headwater::metrics::Metric;
use headwater::value::{DType, Tensor, Value};
use headwater::{Loader, Result, object};

const EPOCHS: usize = 3;

fn main() -> ExitCode {
    let given = std::env::args().nth(1);
    let own = std::env::temp_dir().join(format!("headwater-example-{}", std::process::id()));
    let result = match &given {
        Some(uri) => train(uri),
        None => write_set(&own).and_then(|()| train(&own.to_string_lossy())),
    };
    if given.is_none() {
        let _ = std::fs::remove_dir_all(&own);
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("train: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

fn train(uri: &str) -> Result<()> {
    let config = DatasetConfig { source: Some(uri.into()), ..DatasetConfig::default() };
    let dataset = Dataset::open(&config, uninterrupted())?;
    let loader = Loader::new(&dataset, LoaderConfig { batch_size: 8, shuffle: true, ..LoaderConfig::default() })?;
    println!("{} samples, {} batches an epoch", dataset.len(), loader.len());
    for epoch in 0..EPOCHS {
        let (mut sum, mut elements) = (0.0, 0);
        for batch in loader.batches(uninterrupted())? {
            let (more, count) = total(&batch?);
            sum += more;
            elements += count;
        }
        let reused = loader.snapshot().raw(Metric::UnitsReused);
        println!(
            "epoch {epoch}: mean {:.4} of {elements} elements; {reused} units reused so far",
            sum / elements as f64
        );
    }
    Ok(())
}

/// Sum and number of the elements of every float32 tensor that is a field.
fn total(batch: &Batch) -> (f64, usize) {
    let mut sum = 0.0;
    let mut elements = 0;
    for name in ["latents", "data"] {
        if let Some(Value::Tensor(tensor)) = batch.field(name)
            && tensor.dtype() == DType::F32
        {
            let bytes = tensor.contiguous_bytes().unwrap_or_default();
            sum += bytes.as_chunks::<4>().0.iter().map(|&element| f64::from(f32::from_le_bytes(element))).sum::<f64>();
            elements += tensor.numel();
        }
    }
    (sum, elements)
}

/// 64 samples of one field, with every element of sample `n` equal to `n`.
fn write_set(folder: &Path) -> Result<()> {
    let latents = folder.join("latents");
    std::fs::create_dir_all(&latents).map_err(|cause| headwater::Error::io("create", latents.display(), cause))?;
    for number in 0..64_u8 {
        let elements = f32::from(number).to_le_bytes().repeat(16 * 32 * 32);
        let tensor = Tensor::from_bytes(DType::F32, &[16, 32, 32], elements.into())?;
        object::save(&latents.join(format!("{number:02}.pt")), &Value::Tensor(tensor))?;
    }
    Ok(())
}
