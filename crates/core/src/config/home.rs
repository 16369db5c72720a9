//! Where Headwater keeps what it may lose.

#![allow(clippy::disallowed_methods)] // this is where the environment is read

use std::env;
use std::path::PathBuf;

/// Folder for manifests: `$HEADWATER_HOME`, else `$XDG_CACHE_HOME/headwater`, else `~/.cache/headwater`. `None` when none of
/// these variables is set; nothing is kept then.
pub fn home() -> Option<PathBuf> {
    let path = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    path("HEADWATER_HOME")
        .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("headwater")))
        .or_else(|| path("HOME").map(|home| home.join(".cache").join("headwater")))
}
