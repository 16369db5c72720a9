//! Objects without a dataset: load a file, decode bytes, save a value; the objects of a [`Place`] by their names.

#![allow(clippy::disallowed_methods)] // files are what this is about

mod held;
mod place;

use std::fs;
use std::io::Write;
use std::path::Path;

use bytes::Bytes;

use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{self, Limits, pt};
use crate::source::{Local, ReadRequest, Source};
use crate::value::Value;

pub use place::Place;

/// Reads and decodes a local file; its suffixes say how. Where there is no `x.pt`, `x.pt.zst` is read.
///
/// # Errors
/// `NotFound`, `Denied`, `Io`, `Corrupt`, `Unsupported`, naming the file.
pub fn load(path: &Path) -> Result<Value> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name =
        name.ok_or_else(|| Error::new(ErrorKind::Invalid, "read", path.display()).because("it is no file name"))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = Local::open(folder)?;
    let read = |name: &str| {
        let read = folder.read_blocking(&ReadRequest::whole(name), Engine::current()?.buffers());
        read.unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "read", path.display())))
    };
    let compressed = format!("{name}.zst");
    match read(name) {
        Ok(object) => decode(&folder.uri_of(name), &object.bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => match read(&compressed) {
            Ok(object) => decode(&folder.uri_of(&compressed), &object.bytes),
            // That the file asked for is not there is the news.
            Err(other) if other.kind() == ErrorKind::NotFound => Err(error),
            Err(other) => Err(other),
        },
        Err(error) => Err(error),
    }
}

/// Decodes an object's bytes; the suffixes of `name` say how. Tensors may be views of `bytes`.
///
/// # Errors
/// `Corrupt`, `Unsupported`, naming the object.
pub fn decode(name: &str, bytes: &Bytes) -> Result<Value> {
    let mut values = format::decode_object(name, bytes, &Limits::default(), Engine::current()?.buffers())?;
    let value =
        values.pop().ok_or_else(|| Error::new(ErrorKind::Corrupt, "decode", name).because("it holds no value"))?;
    Ok(value.1)
}

/// Writes a value as a `.pt` file that torch reads: under a temporary name first, so that the file is whole or not there.
///
/// # Errors
/// `Io`, `Denied`, `Unsupported` beyond 4 GiB.
pub fn save(path: &Path, value: &Value) -> Result<()> {
    let bytes = pt::write_pt(value)?;
    let failed = |cause| Error::io("write", path.display(), cause);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(&bytes))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed)
}
