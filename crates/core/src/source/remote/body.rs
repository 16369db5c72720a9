//! Bodies of answers: into a buffer of the right size, or not at all.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use reqwest::Response;

use super::Digest;
use super::wire::transport;
use crate::buffer::{Buffer, BufferPool};
use crate::error::{Error, ErrorKind, Result};

/// What is no object is not read beyond this: a page of a listing is a few hundred KB.
const MAX_COLLECTED: usize = 64 << 20;

/// The same of one whose length was listed, which need not be true either.
const KNOWN_BYTES: usize = 1 << 30;
/// Of a body of unknown length, memory that is taken before any of it has come.
const UNKNOWN_BYTES: usize = 64 << 20;

/// The length that the headers name.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// The range that was sent, and the size of the whole: `bytes 0-9/100`.
pub(super) fn sent_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some((first..last.checked_add(1)?, total.parse().ok()?))
}

/// A body that is to be read.
pub(super) struct Body<'a> {
    pub(super) name: &'a str,
    /// Its length, as the answer says.
    pub(super) expected: usize,
    /// Whether that is what was asked for: else no more memory is taken than comes.
    pub(super) is_known: bool,
    pub(super) digest: Option<Digest>,
}

/// Reads a body of exactly the length that was said, and checks it against its checksum.
pub(super) async fn read(mut answer: Response, body: Body<'_>, buffers: &BufferPool) -> Result<Buffer> {
    let Body { name, expected, is_known, digest } = body;
    let mut buffer = buffers.take(expected.min(if is_known { KNOWN_BYTES } else { UNKNOWN_BYTES }));
    let mut filled = 0;
    let mut digest = digest.map(Digest::begin);
    loop {
        let chunk = match answer.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            // How a body ends before its time.
            Err(cause) if !cause.is_timeout() => {
                return Err(wrong_length(name, expected).because(format_args!("it broke off after {filled}")));
            }
            Err(cause) => {
                let so_far = format!(" after {filled} of {expected} bytes");
                return Err(transport("read", name, &cause, &so_far));
            }
        };
        let end = filled + chunk.len();
        if end > expected {
            return Err(wrong_length(name, expected).because("it went on after that"));
        }
        if end > buffer.len() {
            let mut larger = buffers.take(end.max(2 * buffer.len()).min(expected));
            larger[..filled].copy_from_slice(&buffer[..filled]);
            buffer = larger;
        }
        let slot = &mut buffer[filled..end];
        slot.copy_from_slice(&chunk);
        if let Some(digest) = &mut digest {
            digest.update(slot);
        }
        filled = end;
    }
    if filled != expected {
        return Err(wrong_length(name, expected).because(format_args!("it ended after {filled}")));
    }
    match digest.map(super::digest::Running::finish) {
        Some(Err(words)) => Err(Error::new(ErrorKind::Unavailable, "read", name).because(words)),
        _ => Ok(buffer),
    }
}

/// Reads what is no object.
pub(super) async fn collect(mut answer: Response, name: &str) -> Result<Bytes> {
    let broke = |cause| transport("read", name, &cause, "");
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(broke)? {
        if body.len() + chunk.len() > MAX_COLLECTED {
            return Err(Error::new(ErrorKind::Unavailable, "read", name)
                .because(format_args!("the answer has more than {MAX_COLLECTED} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn wrong_length(name: &str, expected: usize) -> Error {
    Error::new(ErrorKind::Unavailable, "read", name).because(format_args!("the body should have {expected} bytes"))
}
