//! Zstandard: one or more frames, with or without their content size.

use std::io::Read;

use bytes::Bytes;
use zstd::zstd_safe;

use super::Codec;
use crate::buffer::{Buffer, BufferPool};
use crate::error::{Error, ErrorKind, Result};

/// Level 3, the default of the `zstd` command.
const LEVEL: i32 = 3;
/// First guess of what unpacks from frames that do not say: the usual ratio of tensors is below this.
const GUESSED_RATIO: usize = 4;
/// No frame may ask for a window above this, whatever it claims: 128 MiB, what the `zstd` command accepts by default.
const MAX_WINDOW_LOG: u32 = 27;

/// The `.zst` codec.
#[derive(Debug)]
pub struct Zstd;

impl Codec for Zstd {
    fn name(&self) -> &'static str {
        "zstd"
    }

    fn suffix(&self) -> &'static str {
        ".zst"
    }

    fn encode(&self, input: &[u8]) -> Result<Vec<u8>> {
        zstd::bulk::compress(input, LEVEL).map_err(|cause| Error::io("compress", "zstd frame", cause))
    }

    fn decode(&self, input: &Bytes, max_bytes: usize, buffers: &BufferPool) -> Result<Bytes> {
        if input.is_empty() {
            return Err(corrupt("it is empty"));
        }
        match content_size(input) {
            Some(size) if size > max_bytes as u64 => {
                Err(corrupt(format_args!("it says that it unpacks to {size} bytes, over the limit of {max_bytes}")))
            }
            Some(size) => decode_known(input, size as usize, buffers),
            None => decode_growing(input, max_bytes, buffers),
        }
    }
}

/// What all frames together unpack to, when every one of them says so. A lying header costs at most `max_bytes`.
fn content_size(mut input: &[u8]) -> Option<u64> {
    let mut total = 0_u64;
    while !input.is_empty() {
        let size = zstd_safe::get_frame_content_size(input).ok()??;
        total = total.checked_add(size)?;
        let frame = zstd_safe::find_frame_compressed_size(input).ok()?;
        input = input.get(frame..)?;
    }
    Some(total)
}

fn decode_known(input: &[u8], size: usize, buffers: &BufferPool) -> Result<Bytes> {
    let mut out = buffers.take(size);
    let mut context = zstd_safe::DCtx::create();
    let written = context.decompress(&mut out[..], input).map_err(|code| corrupt(zstd_safe::get_error_name(code)))?;
    if written != size {
        return Err(corrupt(format_args!("it unpacks to {written} bytes where its headers say {size}")));
    }
    Ok(out.freeze())
}

fn decode_growing(input: &[u8], max_bytes: usize, buffers: &BufferPool) -> Result<Bytes> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(damaged)?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(damaged)?;
    let mut out = buffers.take(input.len().saturating_mul(GUESSED_RATIO).clamp(1 << 16, max_bytes.max(1)));
    let mut filled = 0;
    loop {
        if filled == out.len() {
            out = grow(&out, max_bytes, buffers);
        }
        if filled == out.len() {
            // At the limit: only the end of the input may follow.
            return match decoder.read(&mut [0]).map_err(damaged)? {
                0 => Ok(out.freeze()),
                _ => Err(corrupt(format_args!("it unpacks to more than {max_bytes} bytes"))),
            };
        }
        match decoder.read(&mut out[filled..]).map_err(damaged)? {
            0 => break,
            n => filled += n,
        }
    }
    out.truncate(filled);
    Ok(out.freeze())
}

fn grow(old: &Buffer, max_bytes: usize, buffers: &BufferPool) -> Buffer {
    let mut larger = buffers.take(old.len().saturating_mul(2).min(max_bytes));
    larger[..old.len()].copy_from_slice(old);
    larger
}

fn corrupt(reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, "decompress", "zstd frame").because(reason)
}

#[allow(clippy::needless_pass_by_value)] // the shape `map_err` wants
fn damaged(cause: std::io::Error) -> Error {
    corrupt(cause)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn decode(input: Vec<u8>, max_bytes: usize) -> Result<Bytes> {
        Zstd.decode(&input.into(), max_bytes, &BufferPool::new(1 << 20))
    }

    fn without_content_size(data: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("encoder");
        encoder.write_all(data).expect("write");
        encoder.finish().expect("finish")
    }

    #[test]
    fn reads_frames_with_and_without_their_size_and_several_in_a_row() {
        let data: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let sized = Zstd.encode(&data).expect("encode");
        let unsized_frame = without_content_size(&data);
        assert_eq!(content_size(&unsized_frame), None);
        assert_eq!(decode(sized.clone(), 1 << 30).expect("sized"), data);
        assert_eq!(decode(unsized_frame.clone(), 1 << 30).expect("unsized"), data);
        for pair in [[sized.clone(), sized.clone()], [sized.clone(), unsized_frame.clone()], [unsized_frame, sized]] {
            assert_eq!(decode(pair.concat(), 1 << 30).expect("two frames"), [&data[..], &data[..]].concat());
        }
    }

    #[test]
    fn refuses_a_bomb_within_bounded_memory() {
        let zeros = vec![0; 64 << 20];
        for bomb in [Zstd.encode(&zeros).expect("encode"), without_content_size(&zeros)] {
            let error = decode(bomb, 1 << 20).expect_err("bomb");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("1048576"), "{error}");
        }
    }

    #[test]
    fn accepts_exactly_the_limit() {
        let zeros = vec![0; 1 << 20];
        assert_eq!(decode(without_content_size(&zeros), 1 << 20).expect("fits"), zeros);
    }

    #[test]
    fn refuses_truncation_at_every_byte() {
        let frame = Zstd.encode(b"latents and conditions, latents and conditions").expect("encode");
        for cut in 0..frame.len() {
            decode(frame[..cut].to_vec(), 1 << 20).expect_err("truncated");
        }
    }
}
