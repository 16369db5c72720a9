//! The marker of a demo set, and what a directory may hold for the set to be written to it.
//!
//! The marker is written before the first sample, saying that the set is not complete, and again behind the last. So every directory
//! says what is in it or is to come, and a run that was interrupted is gone on with by the same set only. One process writes at
//! a time, so what lies there under a temporary name was left by one that ended.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use headwater::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::{DemoSet, Scale};

const VERSION: u32 = 1;
const NAME: &str = "demo-set.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    version: u32,
    seed: u64,
    samples: u32,
    scale: Scale,
    /// Sets from before there was this field had their marker written last.
    #[serde(default = "yes")]
    pub(super) complete: bool,
}

fn yes() -> bool {
    true
}

impl Marker {
    pub(super) fn new(set: &DemoSet, complete: bool) -> Self {
        Self { version: VERSION, seed: set.seed, samples: set.samples, scale: set.scale, complete }
    }

    /// What a directory says about itself; `None` when it is empty or not there.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(NAME);
        match fs::read_to_string(&path) {
            Ok(text) => match serde_json::from_str(&text) {
                Ok(marker) => Ok(Some(marker)),
                Err(_) => Err(refused(directory, "its demo-set.json is of another version; choose another directory")),
            },
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => refuse_foreign(directory).map(|()| None),
            Err(cause) => Err(Error::io("read", path.display(), cause)),
        }
    }

    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let temporary = directory.join(format!(".{NAME}.tmp"));
        let text = serde_json::to_string(self).unwrap_or_default() + "\n";
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, directory.join(NAME)))
            .map_err(|cause| Error::io("write", directory.join(NAME).display(), cause))
    }

    /// Refuses to write `self` where there is `kept`.
    pub(super) fn check_same_set(&self, kept: &Self, directory: &Path) -> Result<()> {
        if *self == (Self { complete: self.complete, ..*kept }) {
            return Ok(());
        }
        let what = if kept.complete { "another demo set" } else { "another demo set, not complete yet" };
        let Self { seed, samples, .. } = kept;
        let small = if kept.scale == Scale::Small { " --small" } else { "" };
        let typed = format!("--samples {samples} --seed {seed}{small}");
        let reason = format!("it holds {what} ({typed}); write that one, remove it, or choose another directory");
        Err(refused(directory, &reason))
    }
}

/// Makes the directory, and keeps other processes from writing to it while the result lives.
pub(super) fn lock(directory: &Path) -> Result<File> {
    let failed = |cause| Error::io("write the demo set to", directory.display(), cause);
    fs::create_dir_all(directory).map_err(failed)?;
    let lock = File::open(directory).map_err(failed)?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => Err(refused(directory, "another process is writing to it")),
        // Where directories cannot be locked, one has to take care oneself.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(lock),
    }
}

/// Removes what an interrupted run left under temporary names.
pub(super) fn remove_temporary(folder: &Path) -> Result<()> {
    for path in entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            fs::remove_file(&path).map_err(|cause| Error::io("remove", path.display(), cause))?;
        }
    }
    Ok(())
}

/// Without a marker there may be nothing but the beginnings of one.
fn refuse_foreign(directory: &Path) -> Result<()> {
    let temporary = format!(".{NAME}.tmp");
    if entries(directory)?.iter().all(|path| path.ends_with(&temporary)) {
        return Ok(());
    }
    Err(refused(directory, "it is not empty and holds no demo set; choose another directory"))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |cause| Error::io("look into", directory.display(), cause);
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect(),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(cause) => Err(failed(cause)),
    }
}

fn refused(directory: &Path, reason: &str) -> Error {
    Error::new(ErrorKind::Invalid, "write the demo set to", directory.display()).because(reason)
}
