//! The tensor codec on one file of raw elements, or on what is made here: ratio and GB/s, as one line of JSON each.
//!
//! ```sh
//! cargo run --release --example codec -- --seconds 0.5 4 latents.bin
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)] // a program

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use bytes::Bytes;
use headwater::Result;
use headwater::buffer::BufferPool;
use headwater::codec::tensor::{Plan, block_bytes, decode_block, encode_block};
use headwater::engine::Workers;
use headwater::format::record::{Compression, pack};
use headwater::value::{DType, Packed, Tensor, Value};
use serde_json::json;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut seconds = 0.5;
    let mut threads = 1;
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|value| value.parse::<f64>().ok());
        match &*argument {
            "--seconds" => seconds = number().unwrap_or(seconds),
            "--threads" => threads = number().map_or(1, |number| number as usize),
            item => {
                let file = arguments.next().unwrap_or_default();
                let done = item.parse().map_err(|_| "the bytes of an element come before a file".to_owned());
                let done =
                    done.and_then(|item| Ok((item, std::fs::read(&file).map_err(|error| format!("{file}: {error}"))?)));
                let done =
                    done.and_then(|(item, bytes)| run(&bytes, item, threads, seconds).map_err(|error| error.report()));
                match done {
                    Ok(line) => println!("{line}"),
                    Err(words) => {
                        eprintln!("codec: {words}");
                        return ExitCode::FAILURE;
                    }
                }
            }
        }
    }
    ExitCode::SUCCESS
}

fn run(bytes: &[u8], item: usize, threads: usize, seconds: f64) -> Result<serde_json::Value> {
    let bytes = &bytes[..bytes.len() / item * item];
    let plan = Plan::of(bytes, item)?;
    let encode = |out: &mut Vec<Vec<u8>>| -> Result<()> {
        let plan = Plan::of(bytes, item)?;
        for (block, out) in bytes.chunks(block_bytes(item)).zip(out) {
            out.clear();
            encode_block(block, item, &plan, out)?;
        }
        Ok(())
    };
    let mut blocks = vec![Vec::new(); bytes.len().div_ceil(block_bytes(item))];
    encode(&mut blocks)?;
    let decode = |out: &mut [u8]| -> Result<()> {
        blocks.iter().zip(out.chunks_mut(block_bytes(item))).try_for_each(|(block, out)| decode_block(block, item, out))
    };
    let mut out = vec![0; bytes.len()];
    decode(&mut out)?;
    let coded: usize = blocks.iter().map(Vec::len).sum();
    let gigabytes = |rounds: f64| rounds * bytes.len() as f64 / 1e9;
    Ok(json!({
        "item": item, "bytes": bytes.len(), "coded": coded, "ratio": bytes.len() as f64 / coded as f64,
        "bound": bound(bytes, item), "record": largest_record(bytes, item)?, "lossless": out == bytes, "plan": format!("{plan:?}"), "threads": threads,
        "encode": gigabytes(rounds(threads, seconds, || {
            let mut blocks = vec![Vec::new(); blocks.len()];
            move || encode(&mut blocks)
        })?),
        "decode": gigabytes(rounds(threads, seconds, || {
            let mut out = vec![0; bytes.len()];
            move || decode(&mut out)
        })?),
        "copy": gigabytes(rounds(threads, seconds, || {
            let mut out = vec![0; bytes.len()];
            move || { out.copy_from_slice(black_box(bytes)); Ok(()) }
        })?),
        "pack": gigabytes(packs(bytes, item, threads, seconds)?),
    }))
}

/// Bytes of its record, as it is or coded, whichever is larger.
fn largest_record(bytes: &[u8], item: usize) -> Result<usize> {
    let value = value_of(bytes, item)?;
    let packed = |compression| pack(&value, compression, &BufferPool::new(0));
    let records = [packed(Compression::AtLeast(0.0))?, packed(Compression::None)?];
    Ok(records.iter().filter_map(Packed::record).map(Bytes::len).max().unwrap_or_default())
}

fn value_of(bytes: &[u8], item: usize) -> Result<Value> {
    let dtype = DType::ALL.iter().copied().find(|dtype| dtype.size() == item).unwrap_or(DType::U8);
    let tensor = Tensor::from_bytes(dtype, &[bytes.len() / dtype.size()], bytes.to_vec().into())?;
    Ok(Value::Tensor(tensor))
}

/// Records per second that a pool of so many threads packs, one after the other.
fn packs(bytes: &[u8], item: usize, threads: usize, seconds: f64) -> Result<f64> {
    let (value, workers) = (Arc::new(value_of(bytes, item)?), Workers::start(threads)?);
    let buffers = Arc::new(BufferPool::new(1 << 30));
    rounds(1, seconds, || {
        || {
            let (value, buffers) = (value.clone(), buffers.clone());
            let (sender, receiver) = mpsc::sync_channel(1);
            workers.spawn(move || {
                let _ = sender.send(pack(&value, Compression::AtLeast(0.0), &buffers).map(drop));
            });
            receiver.recv().unwrap_or(Ok(()))
        }
    })
}

/// Rounds per second, over all threads.
fn rounds<F: FnMut() -> Result<()>>(threads: usize, seconds: f64, make: impl Fn() -> F + Sync) -> Result<f64> {
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut work = make();
                    work()?;
                    let (began, mut count) = (Instant::now(), 0.0);
                    while began.elapsed().as_secs_f64() < seconds {
                        work()?;
                        count += 1.0;
                    }
                    Ok(count / began.elapsed().as_secs_f64())
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Ok(0.0))).sum()
    })
}

/// The ratio at which every byte takes what its frequency in its plane and block allows for.
fn bound(bytes: &[u8], item: usize) -> f64 {
    let mut bits = 0.0;
    for block in bytes.chunks(block_bytes(item)) {
        for plane in 0..item {
            let mut counts = [0_u32; 256];
            block.iter().skip(plane).step_by(item).for_each(|&byte| counts[byte as usize] += 1);
            let total = (block.len() / item) as f64;
            bits -= counts
                .iter()
                .filter(|&&count| count > 0)
                .map(|&count| f64::from(count) * (f64::from(count) / total).log2())
                .sum::<f64>();
        }
    }
    bytes.len() as f64 * 8.0 / bits.max(1.0)
}
