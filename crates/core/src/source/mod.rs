//! Places where objects are listed and read.
//!
//! A [`Source`] names objects by keys below a root, the root being its URI. It lists in pages ([`list()`]), reads whole objects or
//! ranges, tells each object's [`Version`], and reads on condition that the version is still the expected one. One file
//! per kind; [`open`] is the register. Retries, limits and deadlines are not a source's business: those are wrappers in
//! `fetch`, which are sources themselves. Conformance is one suite for all kinds (`headwater_testkit::conformance`).

mod azure;
mod gate;
mod gcs;
mod hub;
mod list;
mod local;
mod memory;
mod options;
mod probe;
mod remote;
mod s3;
mod web;

use std::fmt::{self, Debug};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::per_process::PerProcess;

pub use gate::Gate;
pub use list::{Listed, list, list_sorted, list_wanted};
pub use local::Local;
pub(crate) use local::write_whole;
pub use memory::Memory;
pub use options::{
    Credentials, CredentialsProvider, SourceOptions, SourceSpec, register_credentials, release_credentials,
};
pub use probe::{Probe, Server};
pub use remote::{Transport, is_sha256_checked};

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

/// What tells two contents of one key apart as well as a source can: a version may be a time, to the second, and name several.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Edition {
    /// The object's version.
    pub version: Version,
    /// Its size in bytes.
    pub size: u64,
}

impl ObjectMeta {
    /// Which edition of the object it tells of.
    pub fn edition(&self) -> Edition {
        Edition { version: self.version.clone(), size: self.size }
    }
}

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct ReadRequest {
    /// Key of the object.
    pub key: String,
    /// Bytes to read, within the object; `None` reads all of it.
    pub range: Option<Range<u64>>,
    /// Refuse with `Changed` when the object's version is another. `Unknown` takes any.
    pub version: Version,
    /// The whole object's size, where it is known. Policies plan by it, and an object of another size is refused.
    pub size: Option<u64>,
    /// Where to stop before it is asked for, of a source whose policies give turns.
    pub gate: Option<Arc<Gate>>,
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

    /// The server that it is reached by, where one URI may mean several.
    fn endpoint(&self) -> Option<&str> {
        None
    }

    /// What tells it from others, in metrics: its URI, and its server where that has to be said.
    fn name(&self) -> String {
        match self.endpoint() {
            Some(endpoint) => format!("{} at {}", self.uri(), options::without_userinfo(endpoint)),
            None => self.uri().to_owned(),
        }
    }

    /// A page of the listing of every object whose key starts with the folder `prefix` (empty for all), recursively: the first
    /// one, or the one that `token` of an earlier page names. [`list()`] gives all of them. A folder that does not exist is
    /// `NotFound` where the source can tell, empty where it cannot.
    ///
    /// # Errors
    /// `Changed` when the listing cannot go on, and has to begin anew.
    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed>;

    /// Learns that `token`, of a page it gave, leads in a circle. Whether another replica can be listed instead, from the start.
    fn leads_nowhere(&self, token: &str) -> bool {
        let _ = token;
        false
    }

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

    /// Whether reading is a system call: such a source answers [`Source::read_blocking`], and nothing needs to be kept of it.
    fn is_local(&self) -> bool {
        false
    }

    /// Whether what lies there cannot change, so that a manifest of it holds for ever.
    fn is_pinned(&self) -> bool {
        false
    }

    /// Which credentials it uses, in words and without them.
    fn credentials(&self) -> String {
        "none needed".to_owned()
    }

    /// The checksum that whole objects read from it were verified by; `None` while no server named one that is cheap.
    fn verified(&self) -> Option<&'static str> {
        None
    }

    /// Writes a small object of our own: a manifest.
    ///
    /// # Errors
    /// `Unsupported` where nothing can be written, `Denied`, `Unavailable`, `Io`.
    fn publish<'a>(&'a self, key: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        let _ = bytes;
        let error =
            Error::new(ErrorKind::Unsupported, "write", self.uri_of(key)).because("nothing can be written there");
        Box::pin(std::future::ready(Err(error)))
    }

    /// URI of an object, for messages.
    fn uri_of(&self, key: &str) -> String {
        format!("{}/{key}", self.uri())
    }
}

/// A source being opened.
type Opening<'a> = BoxFuture<'a, Result<Arc<dyn Source>>>;

/// A source being looked at before it is opened.
type Probing<'a> = BoxFuture<'a, Result<Probe>>;

/// A kind of source: what its URIs look like, and how one is opened.
struct Kind {
    /// What people call it.
    name: &'static str,
    /// Schemes without the colon; empty for plain paths.
    schemes: &'static [&'static str],
    /// For messages: what to write.
    example: &'static str,
    /// Whether a manifest can be left there.
    is_written: bool,
    open: for<'a> fn(&'a SourceSpec, &'a Transport) -> Opening<'a>,
    probe: for<'a> fn(&'a SourceSpec, &'a Transport) -> Probing<'a>,
}

/// Every kind, one line each.
static KINDS: &[Kind] = &[local::KIND, s3::KIND, gcs::KIND, azure::KIND, hub::KIND, web::KIND];

/// Opens the source that a URI names, and makes sure that it is there.
///
/// # Errors
/// `Invalid` for a malformed URI, an unknown scheme or option; `NotFound`, `Denied`, `Unavailable` from the place itself.
pub async fn open(spec: &SourceSpec) -> Result<Arc<dyn Source>> {
    open_with(spec, &Transport::default()).await
}

/// The same, over connections of this kind.
///
/// # Errors
/// Those of [`open`].
pub async fn open_with(spec: &SourceSpec, transport: &Transport) -> Result<Arc<dyn Source>> {
    (kind_of(&spec.uri)?.open)(spec, transport).await
}

/// Looks at a URI and its options without asking the place that they name.
///
/// # Errors
/// `Invalid` for a malformed URI, an unknown scheme or option.
pub async fn probe(spec: &SourceSpec) -> Result<Probe> {
    let kind = kind_of(&spec.uri)?;
    Ok((kind.probe)(spec, &Transport::default()).await?.named(kind.name))
}

/// Makes sure that a manifest can be left at such places, without asking any.
///
/// # Errors
/// `Unsupported`; `Invalid` for a malformed URI or an unknown scheme.
pub fn check_writable(uri: &str) -> Result<()> {
    if kind_of(uri)?.is_written {
        return Ok(());
    }
    let shown = options::without_userinfo(uri);
    Err(Error::new(ErrorKind::Unsupported, "write", shown).because("nothing can be written there"))
}

fn kind_of(uri: &str) -> Result<&'static Kind> {
    let scheme = scheme_of(uri)?;
    let found = KINDS.iter().find(|kind| kind.schemes.contains(&scheme));
    found.ok_or_else(|| unusable(uri, format_args!("unknown scheme `{scheme}:`; known are {}", examples())))
}

/// Schemes of every kind of source.
pub fn schemes() -> impl Iterator<Item = &'static str> {
    KINDS.iter().flat_map(|kind| kind.schemes).copied().filter(|scheme| !scheme.is_empty())
}

/// The path that a URI names, when it names one of this machine.
///
/// # Errors
/// `Invalid` when it looks like a URI but cannot be meant.
pub fn local_path(uri: &str) -> Result<Option<PathBuf>> {
    match scheme_of(uri)? {
        "" | "file" => local::path_in(uri, &SourceOptions::default()).map(Some),
        _ => Ok(None),
    }
}

fn examples() -> String {
    KINDS.iter().map(|kind| kind.example).collect::<Vec<_>>().join(", ")
}

/// The scheme, empty for a plain path.
fn scheme_of(uri: &str) -> Result<&str> {
    let Some((scheme, rest)) = uri.split_once(':') else {
        return if uri.trim().is_empty() {
            Err(unusable(uri, format_args!("it is empty; expected {}", examples())))
        } else {
            Ok("")
        };
    };
    let looks_like_one = scheme.len() > 1 && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !looks_like_one {
        return Ok("");
    }
    if !rest.starts_with("//") && (scheme != "file" || !rest.starts_with('/')) {
        let shown = options::without_userinfo(uri);
        let hint = format_args!("expected `{scheme}://…`; write ./{shown} for a local path of that name");
        return Err(unusable(uri, hint));
    }
    Ok(scheme)
}

fn unusable(uri: &str, reason: fmt::Arguments<'_>) -> Error {
    let shown = options::without_userinfo(uri);
    Error::new(ErrorKind::Invalid, "use source", shown).because(reason)
}

/// Chooses the cryptography behind `https`, once per process.
pub(crate) fn install_tls() {
    static CHOSEN: PerProcess<()> = PerProcess::new();
    // Fails only when another thread or the program that embeds us has chosen already, which is as good.
    let _ = CHOSEN.get_or_try_init(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(())
    });
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
    const SECOND: u64 = 1_000_000_000;
    let is_same = match (expected, found) {
        // Of a manifest that was made on the disk behind a server: tags say nothing of times, and servers round them.
        (Version::Modified(_), Version::ETag(_)) => true,
        (Version::Modified(a), Version::Modified(b)) if b % SECOND == 0 => a / SECOND == b / SECOND,
        (expected, found) => *expected == Version::Unknown || expected == found,
    };
    if is_same {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Changed, "read", uri)
        .because(format_args!("it was replaced: expected version {expected}, found {found}")))
}

/// Whether tags of one object in two places tell that its contents differ: both are hashes of one kind, and unequal. Nothing
/// else of one place can be compared with another's.
pub(crate) fn tell_contents_apart(one: &Version, other: &Version) -> bool {
    match (one, other) {
        (Version::ETag(one), Version::ETag(other)) => {
            one != other && one.len() == other.len() && is_hash(one) && is_hash(other)
        }
        _ => false,
    }
}

/// MD5, SHA-1 or SHA-256, as far as can be seen.
fn is_hash(tag: &str) -> bool {
    let digits = tag.trim_matches('"');
    matches!(digits.len(), 32 | 40 | 64) && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
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
