//! A local directory.
//!
//! A read is three system calls — open, stat, pread — into a pooled buffer, on the thread that asks: a page-cache hit costs
//! less than any hand-over would. Symbolic links are followed, inside the directory and out of it: they are the
//! user's own. Names that are not UTF-8 are passed over with a warning, since they cannot be keys.

#![allow(clippy::disallowed_methods)] // this is where local files are read

use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{
    Kind, Listed, ObjectBytes, ObjectMeta, Probe, ReadRequest, Source, SourceOptions, Version, check_key, check_range,
    check_version, unusable,
};
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};

pub(super) const KIND: Kind = Kind {
    name: "local directory",
    schemes: &["", "file"],
    example: "a path, file:///path",
    is_written: true,
    open: |spec, _| {
        Box::pin(async { Ok(Arc::new(Local::open(&path_in(&spec.uri, &spec.options)?)?) as Arc<dyn Source>) })
    },
    probe: |spec, _| Box::pin(async { Ok(Probe::local(&path_in(&spec.uri, &spec.options)?)) }),
};

/// Objects are the regular files below a directory.
#[derive(Debug, Clone)]
pub struct Local {
    root: PathBuf,
    uri: String,
}

impl Local {
    /// Opens a directory, given as a path.
    ///
    /// # Errors
    /// `NotFound` when it does not exist, `Invalid` when it is no directory, `Denied`.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |cause| Error::io("open directory", path.display(), cause);
        let root = fs::canonicalize(path).map_err(failed)?;
        if !fs::metadata(&root).map_err(failed)?.is_dir() {
            let parent = root.parent().unwrap_or(&root);
            return Err(Error::new(ErrorKind::Invalid, "open directory", path.display())
                .because(format_args!("it is a file; give the directory, `{}`", parent.display())));
        }
        let uri = root.to_str().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "open directory", path.display()).because("its name is not UTF-8")
        })?;
        let uri = uri.trim_end_matches('/').to_owned();
        Ok(Self { root, uri })
    }

    fn path_of(&self, key: &str) -> Result<PathBuf> {
        Ok(self.root.join(check_key(&self.uri, key)?))
    }

    fn read_now(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let path = self.path_of(&request.key)?;
        let failed = |cause| Error::io("read", path.display(), cause);
        // Opening a pipe would wait for whoever writes to it; without waiting it can be told to be no file.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(&path).map_err(failed)?;
        let meta = meta_of(&request.key, &file.metadata().map_err(failed)?)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "read", path.display()).because("it is no regular file"))?;
        let name = self.uri_of(&request.key);
        check_version(&name, &request.version, &meta.version)?;
        let range = check_range(&name, request.range.as_ref(), meta.size)?;
        let mut buffer = buffers.take((range.end - range.start) as usize);
        file.read_exact_at(&mut buffer, range.start).map_err(|cause| match cause.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::new(ErrorKind::Changed, "read", &name).because("it became shorter while it was read")
            }
            _ => failed(cause),
        })?;
        let after = meta_of(&request.key, &file.metadata().map_err(failed)?);
        if after.as_ref() != Some(&meta) {
            return Err(Error::new(ErrorKind::Changed, "read", &name).because("it was written to while it was read"));
        }
        Ok(ObjectBytes { bytes: buffer.freeze(), meta })
    }

    async fn off_thread<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&Self) -> Result<T> + Send + 'static,
    {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this))
            .await
            .map_err(|cause| Error::new(ErrorKind::Internal, "read", &self.uri).caused_by(cause))?
    }
}

#[async_trait]
impl Source for Local {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        let folder = token.unwrap_or(prefix.trim_end_matches('/')).to_owned();
        self.off_thread(move |this| this.folder(&folder)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let path = self.path_of(key)?;
        let key = key.to_owned();
        self.off_thread(move |_| {
            let metadata = fs::metadata(&path).map_err(|cause| Error::io("look at", path.display(), cause))?;
            meta_of(&key, &metadata).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "look at", path.display()).because("it is no regular file")
            })
        })
        .await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let (request, buffers) = (request.clone(), buffers.clone());
        self.off_thread(move |this| this.read_now(&request, &buffers)).await
    }

    fn publish<'a>(&'a self, key: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let path = self.path_of(key)?;
            self.off_thread(move |_| {
                write_whole(&path, &bytes).map_err(|cause| Error::io("write", path.display(), cause))
            })
            .await
        })
    }

    fn read_blocking(&self, request: &ReadRequest, buffers: &BufferPool) -> Option<Result<ObjectBytes>> {
        Some(self.read_now(request, buffers))
    }
}

/// Writes a file, replacing what was there: whoever reads sees one or the other, whole. Others may write it too, from this
/// machine or another.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let unique = RandomState::new().hash_one(std::process::id());
    let temporary = folder.join(format!(".{unique:016x}.{}.tmp", std::process::id()));
    let written = File::create_new(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

impl Local {
    /// The files of one folder, and the folders in it as further pages.
    fn folder(&self, folder: &str) -> Result<Listed> {
        let path = if folder.is_empty() { self.root.clone() } else { self.path_of(folder)? };
        let failed = |cause| Error::io("list", path.display(), cause);
        let mut listed = Listed::default();
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                tracing::warn!("passed over `{}`: its name is not UTF-8", entry.path().display());
                continue;
            };
            let metadata = match fs::metadata(entry.path()) {
                Ok(metadata) => metadata,
                // Gone since the folder was read, or a link to nowhere.
                Err(cause) if is_no_target(&cause) => continue,
                Err(cause) => return Err(Error::io("list", entry.path().display(), cause)),
            };
            let key = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            if !metadata.is_dir() {
                listed.objects.extend(meta_of(&key, &metadata));
            } else if !leads_back(&entry, &metadata, &path, &self.root) {
                listed.next.push(key);
            }
        }
        Ok(listed)
    }
}

/// Whether a folder is a link to one that it lies in, so that following it would never end.
fn leads_back(entry: &fs::DirEntry, target: &Metadata, folder: &Path, root: &Path) -> bool {
    if !entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
        return false;
    }
    let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    let within = folder.ancestors().take_while(|above| above.starts_with(root));
    within.filter_map(|above| fs::metadata(above).ok()).any(|above| identity(&above) == identity(target))
}

pub(super) fn path_in(uri: &str, options: &SourceOptions) -> Result<PathBuf> {
    if let Some((name, _)) = options.iter().next() {
        return Err(Error::new(ErrorKind::Invalid, "use option", name).because("a local directory has no options"));
    }
    let Some(rest) = uri.strip_prefix("file:") else { return Ok(Path::new(uri).to_owned()) };
    let parsed = url::Url::parse(&format!("file:{rest}")).map_err(|cause| unusable(uri, format_args!("{cause}")))?;
    let plain = parsed.query().is_none() && parsed.fragment().is_none();
    let path = if plain { parsed.to_file_path().ok() } else { None };
    path.ok_or_else(|| unusable(uri, format_args!("expected file:///path, with `?` and `#` written %3F and %23")))
}

/// Whether a name leads nowhere: gone, or a link to nothing or to itself.
fn is_no_target(cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::NotFound || cause.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// `None` for anything but a regular file.
fn meta_of(key: &str, metadata: &Metadata) -> Option<ObjectMeta> {
    let modified = metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec());
    let version = Version::Modified(modified as u64);
    metadata.is_file().then(|| ObjectMeta { key: key.to_owned(), size: metadata.len(), version })
}
