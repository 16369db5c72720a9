//! Manifests on disk (format `HWMANIF1`, specified in `docs/formats.md`).
//!
//! One file per dataset, and one per listing that worker processes rely on ([`pin`]): magic, length of a JSON header, the header, the columns little-endian, and an xxh3 of everything
//! before it. Written to a temporary name and renamed, so that a reader sees a whole file or none. A damaged or foreign file
//! is an error, which whoever opens a dataset answers by listing again. What nobody has written for a month is removed.

#![allow(clippy::disallowed_methods)] // a manifest is kept in a file

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::sync::Mutex;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::strings::Strings;
use super::versions::Versions;
use super::{Field, KeyPattern, Manifest, Missing, Origin};
use crate::engine::PerProcess;
use crate::error::{Error, ErrorKind, Result};
use crate::source::write_whole;
use crate::world::ProcessStamp;

const MAGIC: &[u8; 8] = b"HWMANIF1";
const CHECKSUM: usize = 8;
const SUFFIX: &str = ".manifest";
const LOCK_SUFFIX: &str = ".lock";
/// A manifest that nobody has written for so long belongs to no job any more.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(30 * 24);
/// A pinned manifest that is in use is written anew so often, and so never forgotten.
const RENEWED_AFTER: Duration = Duration::from_hours(24);

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    samples: usize,
    key_bytes: usize,
    fields: Vec<FieldHeader>,
    missing: Missing,
    /// Not in files of before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
    order_fingerprint: String,
    content_fingerprint: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct FieldHeader {
    name: String,
    folder: String,
    pattern: String,
    suffixes: Vec<String>,
    version_bytes: usize,
}

/// Where the manifest of a dataset is kept; `identity` is what tells datasets apart.
pub fn path_for(home: &Path, identity: &str) -> PathBuf {
    let hash = xxhash_rust::xxh3::xxh3_128(identity.as_bytes());
    home.join("manifests").join(format!("{hash:032x}{SUFFIX}"))
}

/// Keeps a manifest under a name that no other will have: what others list of the same place later gets its own.
///
/// # Errors
/// Those of [`save`].
pub fn pin(home: &Path, manifest: &Manifest) -> Result<PathBuf> {
    // Fingerprints of keys and contents, names and patterns: all that tells which object is which.
    let header = serde_json::to_string(&header_of(manifest)).unwrap_or_default();
    let path = path_for(home, &header);
    if age(&path).is_none_or(|age| age > RENEWED_AFTER) {
        save(&path, manifest)?;
    }
    Ok(path)
}

/// Writes a manifest among those that are kept, replacing what was there.
///
/// # Errors
/// `Io`, `Denied`.
pub fn save(path: &Path, manifest: &Manifest) -> Result<()> {
    let saved = save_as(path, manifest);
    sweep(path.parent().unwrap_or(Path::new(".")));
    saved
}

/// Writes a manifest to a file of the user's, replacing what was there.
///
/// # Errors
/// `Io`, `Denied`.
pub fn save_as(path: &Path, manifest: &Manifest) -> Result<()> {
    write_whole(path, &encode(manifest)).map_err(|cause| Error::io("write the manifest", path.display(), cause))
}

/// The right to make a manifest, while others of this machine wait for it. Ends with the process, however that ends.
///
/// Among processes it is a lock of the file beside: of the process, so that a child that was forked meanwhile does not hold it too.
/// Such a lock excludes no other thread, and ends when any of them closes the file; so threads exclude each other first.
#[derive(Debug)]
pub struct Turn {
    path: PathBuf,
    owner: ProcessStamp,
    file: Option<fs::File>,
}

static TURNS: PerProcess<Mutex<BTreeSet<PathBuf>>> = PerProcess::new();

impl Turn {
    /// `None` while another process or thread has it. Where it cannot be told of processes, all of them have it.
    pub fn take(path: &Path) -> Option<Self> {
        let path = path.with_extension(&LOCK_SUFFIX[1..]);
        let turns = TURNS.get_or_try_init(|| Ok(Mutex::default())).ok()?;
        if !turns.lock().insert(path.clone()) {
            return None;
        }
        // From here on, dropping it lets others have it.
        let mut turn = Self { path, owner: ProcessStamp::current(), file: None };
        let _ = turn.path.parent().map(fs::create_dir_all);
        turn.file = fs::File::options().create(true).truncate(false).write(true).open(&turn.path).ok();
        let locked = turn.file.as_ref().map(|file| fcntl_lock(file, FlockOperation::NonBlockingLockExclusive));
        match locked {
            Some(Err(Errno::AGAIN | Errno::ACCESS)) => None,
            _ => Some(turn),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // The file first: whoever of this process comes next must not lose its lock by our closing it.
        drop(self.file.take());
        if self.owner.is_current()
            && let Ok(turns) = TURNS.get_or_try_init(|| Ok(Mutex::default()))
        {
            turns.lock().remove(&self.path);
        }
    }
}

/// Removes manifests that nobody has written for a month. Only names that [`path_for`] gives are touched.
fn sweep(folder: &Path) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.and_then(|name| name.strip_suffix(SUFFIX).or_else(|| name.strip_suffix(LOCK_SUFFIX)));
        let is_ours = name.is_some_and(|hash| hash.len() == 32 && hash.bytes().all(|digit| digit.is_ascii_hexdigit()));
        if is_ours && age(&path).is_some_and(|age| age > FORGOTTEN_AFTER) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Reads a manifest.
///
/// # Errors
/// `NotFound`, `Io`, or `Corrupt` when it is not a whole, undamaged manifest of this version.
pub fn load(path: &Path) -> Result<Manifest> {
    let bytes = fs::read(path).map_err(|cause| Error::io("read the manifest", path.display(), cause))?;
    from_bytes(&bytes, &path.display().to_string())
}

/// Reads a manifest that came from elsewhere.
///
/// # Errors
/// `Corrupt` when it is not a whole, undamaged manifest of this version.
pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Manifest> {
    decode(bytes).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "read the manifest", name).because("it is damaged or of another version")
    })
}

/// How long ago the manifest was written; `None` when there is none. A clock that was set back makes it brand new.
pub fn age(path: &Path) -> Option<Duration> {
    let modified = fs::metadata(path).and_then(|meta| meta.modified()).ok()?;
    Some(SystemTime::now().duration_since(modified).unwrap_or_default())
}

/// A manifest as it is kept.
pub fn encode(manifest: &Manifest) -> Vec<u8> {
    let (key_bytes, key_ends) = manifest.keys.parts();
    let header = serde_json::to_vec(&header_of(manifest)).unwrap_or_default();
    let mut out = Vec::with_capacity(manifest.memory_bytes() + header.len() + 64);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&(header.len() as u64).to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(key_bytes);
    put_numbers(&mut out, key_ends);
    for field in &manifest.fields {
        let (version_bytes, version_ends) = field.versions.parts();
        out.extend_from_slice(&field.suffix_of);
        put_numbers(&mut out, &field.sizes);
        out.extend_from_slice(version_bytes);
        put_numbers(&mut out, version_ends);
    }
    let checksum = xxh3_64(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

fn header_of(manifest: &Manifest) -> Header {
    Header {
        samples: manifest.len(),
        key_bytes: manifest.keys.parts().0.len(),
        fields: manifest.fields.iter().map(field_header).collect(),
        missing: manifest.missing.clone(),
        origin: manifest.origin.clone(),
        order_fingerprint: manifest.order_fingerprint.clone(),
        content_fingerprint: manifest.content_fingerprint.clone(),
    }
}

fn field_header(field: &Field) -> FieldHeader {
    FieldHeader {
        name: field.name.to_string(),
        folder: field.folder.clone(),
        pattern: field.pattern.to_string(),
        suffixes: field.suffixes.clone(),
        version_bytes: field.versions.parts().0.len(),
    }
}

pub(super) fn decode(bytes: &[u8]) -> Option<Manifest> {
    let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    if xxh3_64(body).to_le_bytes() != *checksum {
        return None;
    }
    let mut rest = Rest(body);
    if rest.take(MAGIC.len())? != MAGIC {
        return None;
    }
    let header_len = u64::from_le_bytes(rest.take(8)?.try_into().ok()?);
    let header: Header = serde_json::from_slice(rest.take(usize::try_from(header_len).ok()?)?).ok()?;
    let keys = Strings::from_parts(rest.take(header.key_bytes)?.to_vec(), rest.numbers(header.samples)?)?;
    let fields = header.fields.iter().map(|field| rest.field(field, header.samples)).collect::<Option<_>>()?;
    let manifest = Manifest { origin: header.origin, ..Manifest::new(keys, fields, header.missing) };
    let same = manifest.order_fingerprint == header.order_fingerprint
        && manifest.content_fingerprint == header.content_fingerprint;
    (rest.0.is_empty() && same).then_some(manifest)
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn numbers(&mut self, count: usize) -> Option<Vec<u64>> {
        let bytes = self.take(count.checked_mul(8)?)?;
        Some(bytes.as_chunks::<8>().0.iter().map(|&number| u64::from_le_bytes(number)).collect())
    }

    fn field(&mut self, header: &FieldHeader, samples: usize) -> Option<Field> {
        let suffix_of = self.take(samples)?.to_vec();
        if suffix_of.iter().any(|&number| usize::from(number) >= header.suffixes.len()) {
            return None;
        }
        let sizes = self.numbers(samples)?;
        let versions = Versions::from_parts(self.take(header.version_bytes)?.to_vec(), self.numbers(samples)?)?;
        Some(Field {
            name: header.name.as_str().into(),
            folder: header.folder.clone(),
            pattern: KeyPattern::parse(&header.pattern).ok()?,
            suffixes: header.suffixes.clone(),
            suffix_of,
            sizes,
            versions,
        })
    }
}

fn put_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}
