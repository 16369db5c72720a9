//! One version of an object, with everything protocols say about it.
//!
//! Digests are made when first asked for, and once: what asks for none costs none.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use hyper::header::HeaderValue;
use md5::{Digest, Md5};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use xxhash_rust::xxh3::xxh3_128;

/// 2026-01-01: when version 0 of everything was stored.
const EPOCH: i64 = 1_767_225_600;

#[derive(Debug)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    /// Grows with every object stored.
    pub(super) generation: u64,
    /// An entity tag that hangs on the content, in quotes.
    pub(super) tag: HeaderValue,
    /// When it was stored, as in headers.
    pub(super) modified: HeaderValue,
    crc32c: OnceLock<String>,
    md5: OnceLock<String>,
    sha256: OnceLock<String>,
    blob: OnceLock<String>,
}

impl Object {
    pub(super) fn new(bytes: Bytes, generation: u64) -> Self {
        let tag = header(format!("\"{:032x}\"", xxh3_128(&bytes)));
        let modified = header(stored_at(generation).format("%a, %d %b %Y %H:%M:%S GMT").to_string());
        let (crc32c, md5, sha256, blob) = Default::default();
        Self { bytes, generation, tag, modified, crc32c, md5, sha256, blob }
    }

    /// The same version told as so much shorter: a server that lost the end and does not know.
    pub(super) fn shortened(&self, less: usize) -> Self {
        let whole = |digest: &str| OnceLock::from(digest.to_owned()); // as a server that knows no better
        Self {
            bytes: self.bytes.slice(..self.bytes.len().saturating_sub(less)),
            generation: self.generation,
            tag: self.tag.clone(),
            modified: self.modified.clone(),
            crc32c: whole(self.crc32c()),
            md5: self.md5.clone(),
            sha256: whole(self.sha256()),
            blob: whole(self.blob()),
        }
    }

    /// When it was stored: a second later for every object stored, so that a time tells versions apart.
    pub(super) fn stored_at(&self) -> DateTime<Utc> {
        stored_at(self.generation)
    }

    /// The entity tag as text.
    pub(super) fn tag(&self) -> &str {
        self.tag.to_str().unwrap_or_default()
    }

    /// Base64 of the big-endian CRC32C, as S3 and Google write it.
    pub(super) fn crc32c(&self) -> &str {
        self.crc32c.get_or_init(|| STANDARD.encode(crc32c::crc32c(&self.bytes).to_be_bytes()))
    }

    /// Base64 of the MD5.
    pub(super) fn md5(&self) -> &str {
        self.md5.get_or_init(|| STANDARD.encode(Md5::digest(&self.bytes)))
    }

    /// The SHA-256 in hexadecimal: the name of a large file.
    pub(super) fn sha256(&self) -> &str {
        self.sha256.get_or_init(|| hex(ring::digest::digest(&SHA256, &self.bytes).as_ref()))
    }

    /// The name that git gives a small file.
    pub(super) fn blob(&self) -> &str {
        self.blob.get_or_init(|| blob_id(&self.bytes))
    }
}

/// The SHA-1 that git gives a file of this content.
pub(super) fn blob_id(content: &[u8]) -> String {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", content.len()).as_bytes());
    context.update(content);
    hex(context.finish().as_ref())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn stored_at(generation: u64) -> DateTime<Utc> {
    DateTime::from_timestamp(EPOCH + generation as i64, 0).unwrap_or_default()
}

fn header(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}
