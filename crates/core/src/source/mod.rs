//! Places where objects are listed and read.
//!
//! A [`Source`] names objects by keys below a root, the root being its URI. It lists in pages, reads whole objects or
//! ranges, tells each object's [`Version`], and reads on condition that the version is still the expected one. One file
//! per kind; [`open`] is the register. Retries, limits and deadlines are not a source's business: those are wrappers in
//! `fetch`, which are sources themselves. Conformance is one suite for all kinds (`headwater_testkit::conformance`).

use std::fmt::{self, Debug};
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};

use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};

/// What tells two contents of one key apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// The source cannot tell.
    #[default]
    Unknown,
    /// Time of the last change, in nanoseconds since 1970.
    Modified(u64),
    /// The entity tag, as the server spells it.
    ETag(String),
}

/// One object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Name below the source's root, `/`-separated, without a leading slash.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// Its version.
    pub version: Version,
}

/// What to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadRequest {
    /// Key of the object.
    pub key: String,
    /// Bytes to read, within the object; `None` reads all of it.
    pub range: Option<Range<u64>>,
    /// Refuse with `Changed` when the object's version is another. `Unknown` takes any.
    pub version: Version,
}

impl ReadRequest {
    /// Asks for a whole object of any version.
    pub fn whole(key: impl Into<String>) -> Self {
        Self { key: key.into(), ..Self::default() }
    }
}

/// What was read.
#[derive(Debug, Clone)]
pub struct ObjectBytes {
    /// The bytes asked for, all of them.
    pub bytes: Bytes,
    /// The whole object's size and version.
    pub meta: ObjectMeta,
}

/// A page of a listing.
pub type Page = Vec<ObjectMeta>;

/// A place where objects are listed and read.
#[async_trait]
pub trait Source: Debug + Send + Sync {
    /// The root's URI, without a trailing slash and without any secret.
    fn uri(&self) -> &str;

    /// Lists every object whose key starts with the folder `prefix` (empty for all), recursively, in pages of any order.
    /// A folder that does not exist is `NotFound` where the source can tell, empty where it cannot.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Page>>;

    /// Size and version of one object.
    async fn head(&self, key: &str) -> Result<ObjectMeta>;

    /// Reads one object or a range of it into memory of `buffers`. Returns all the bytes or an error, never fewer.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Changed` (not the expected version), `OutOfRange` (range beyond the object), `Unavailable`
    /// (may pass), `Invalid` (key leaves the root).
    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes>;

    /// Reads on the calling thread, for a source that needs no runtime to do so; `None` from all others.
    fn read_blocking(&self, request: &ReadRequest, buffers: &BufferPool) -> Option<Result<ObjectBytes>> {
        let _ = (request, buffers);
        None
    }

    /// URI of an object, for messages.
    fn uri_of(&self, key: &str) -> String {
        format!("{}/{key}", self.uri())
    }
}

/// Lists everything below `prefix` whose key `wanted` accepts, sorted by key (bytewise).
pub async fn list_sorted(source: &dyn Source, prefix: &str, wanted: impl Fn(&str) -> bool) -> Result<Page> {
    let mut objects = Vec::new();
    let mut pages = source.list(prefix);
    while let Some(page) = pages.next().await {
        objects.extend(page?.into_iter().filter(|object| wanted(&object.key)));
    }
    objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(objects)
}

/// Refuses keys that could name something outside the root, or name one object in two ways.
pub(crate) fn check_key<'a>(root: &str, key: &'a str) -> Result<&'a str> {
    let reason = if key.is_empty() {
        "the key is empty"
    } else if key.contains('\0') {
        "the key contains a NUL"
    } else if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "the key has an empty, `.` or `..` component"
    } else {
        return Ok(key);
    };
    Err(Error::new(ErrorKind::Invalid, "read", format_args!("{root}/{}", key.escape_debug())).because(reason))
}

/// Refuses a range that does not lie within an object of `size` bytes; `None` is all of it.
pub(crate) fn check_range(uri: &str, range: Option<&Range<u64>>, size: u64) -> Result<Range<u64>> {
    match range {
        None => Ok(0..size),
        Some(range) if range.start <= range.end && range.end <= size => Ok(range.clone()),
        Some(range) => Err(Error::new(ErrorKind::OutOfRange, "read", uri)
            .because(format_args!("bytes {}..{} of an object of {size} bytes", range.start, range.end))),
    }
}

/// Refuses another version than the expected one.
pub(crate) fn check_version(uri: &str, expected: &Version, found: &Version) -> Result<()> {
    if *expected == Version::Unknown || expected == found {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Changed, "read", uri)
        .because(format_args!("it was replaced: expected version {expected}, found {found}")))
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Unknown => f.write_str("unknown"),
            Version::Modified(nanoseconds) => write!(f, "mtime {nanoseconds}"),
            Version::ETag(tag) => f.write_str(tag),
        }
    }
}
