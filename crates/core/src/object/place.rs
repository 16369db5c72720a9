//! The objects of one place by their names, without a dataset: listed, read and decoded one by one.
//!
//! For whoever knows which object they want. The place is asked as a dataset asks its sources, with the same policies; an object that is
//! there only compressed is found under its plain name. What is fetched ahead is held, within a bound, until it is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream::{self, StreamExt};

use super::held::Held;
use crate::codec::{self, Codec};
use crate::config::FetchConfig;
use crate::engine::{Engine, Interrupt, PerProcess};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::{self, Policies};
use crate::source::{self, ObjectBytes, ReadRequest, Source, SourceSpec, list_sorted};
use crate::sync::Mutex;
use crate::value::{Dict, Value};

/// Objects that are fetched ahead at once.
const AHEAD_AT_ONCE: usize = 16;
/// What a value that is no dict is called in one.
const UNNAMED: &str = "data";
/// Suffixes of the objects that are listed.
const LISTED: [&str; 2] = [".pt", ".pt.zst"];

/// The objects of one place. A handle: clones share everything, any thread may use it, and so may a forked child.
#[derive(Debug, Clone)]
pub struct Place {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: SourceSpec,
    policies: Policies,
    source: PerProcess<Arc<dyn Source>>,
    held: PerProcess<Mutex<Held>>,
}

impl Place {
    /// Connects to a place, and makes sure that it is there.
    ///
    /// # Errors
    /// `Invalid` for a URI or options that cannot be meant; `NotFound`, `Denied`, `Unavailable`, `Timeout`; or what `interrupt`
    /// returned.
    pub fn open(spec: &SourceSpec, fetch: &FetchConfig, interrupt: Interrupt<'_>) -> Result<Self> {
        let engine = Engine::current()?;
        let mut spec = spec.clone();
        if let Some(path) = source::local_path(&spec.uri)? {
            // The same place whatever the current folder is later.
            let absolute = std::path::absolute(&path).map_err(|cause| Error::io("use path", path.display(), cause))?;
            spec.uri = absolute.to_string_lossy().into_owned();
        }
        let (source, held) = (PerProcess::new(), PerProcess::new());
        let inner = Arc::new(Inner { spec, policies: fetch.policies()?, source, held });
        let opening = inner.clone();
        engine.block_on("opening the source", async move { opening.source().await.map(drop) }, interrupt)??;
        Ok(Self { inner })
    }

    /// Names of the `.pt` and `.pt.zst` objects in a folder, empty for all, recursively: sorted, below the place's root.
    ///
    /// # Errors
    /// `NotFound` when there is nothing below the folder; those of the source.
    pub fn list(&self, folder: &str, interrupt: Interrupt<'_>) -> Result<Vec<String>> {
        let inner = self.inner.clone();
        let folder = match folder.trim_matches('/') {
            "" | "." => String::new(),
            folder => format!("{folder}/"),
        };
        Engine::current()?.block_on("listing", async move { inner.list(&folder).await }, interrupt)?
    }

    /// Reads and decodes an object; where there is no `x.pt`, `x.pt.zst` is read, unless `unpack` is false. A value that is no dict is
    /// `data` in one. Its memory is the caller's own.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`, `Timeout`; `Corrupt` or `Unsupported`, naming object and offset; `Invalid` for a name
    /// that leaves the root.
    pub fn get(&self, name: &str, unpack: bool, interrupt: Interrupt<'_>) -> Result<Value> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        Engine::current()?.block_on("reading an object", async move { inner.get(&name, unpack).await }, interrupt)?
    }

    /// Begins the same; `then` is called with the outcome, from a thread of the engine's. What is returned cancels it.
    ///
    /// # Errors
    /// `Io` when the engine cannot be started.
    pub fn begin_get(
        &self,
        name: &str,
        unpack: bool,
        then: impl FnOnce(Result<Value>) + Send + 'static,
    ) -> Result<impl FnOnce() + Send + 'static> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        Ok(Engine::current()?.spawn(async move { then(inner.get(&name, unpack).await) }))
    }

    /// Fetches objects and holds them until they are asked for, a minute at least; says of each whether it is there now. What there is no
    /// room for, and what fails, is read when it is asked for.
    ///
    /// # Errors
    /// Those of connecting in this process.
    pub fn prefetch(&self, names: Vec<String>, interrupt: Interrupt<'_>) -> Result<Vec<bool>> {
        let inner = self.inner.clone();
        Engine::current()?.block_on("fetching ahead", async move { inner.prefetch(names).await }, interrupt)?
    }

    /// Begins the same; `then` is called with the outcome, from a thread of the engine's. What is returned cancels it.
    ///
    /// # Errors
    /// `Io` when the engine cannot be started.
    pub fn begin_prefetch(
        &self,
        names: Vec<String>,
        then: impl FnOnce(Result<Vec<bool>>) + Send + 'static,
    ) -> Result<impl FnOnce() + Send + 'static> {
        let inner = self.inner.clone();
        Ok(Engine::current()?.spawn(async move { then(inner.prefetch(names).await) }))
    }
}

impl Inner {
    /// The source, connected in this process.
    async fn source(&self) -> Result<Arc<dyn Source>> {
        let missing = || Err(Error::new(ErrorKind::Unavailable, "use", self.spec.shown_uri()));
        if let Ok(source) = self.source.get_or_try_init(missing) {
            return Ok(source.clone());
        }
        let opened = fetch::open(&self.spec, &self.policies).await?;
        let source = fetch::with_policies(vec![opened], &self.policies, &Arc::default());
        self.source.get_or_try_init(|| Ok(source)).cloned()
    }

    fn held(&self) -> Result<&Mutex<Held>> {
        self.held.get_or_try_init(|| Ok(Mutex::new(Held::default())))
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let (source, seen) = (self.source().await?, AtomicU64::new(0));
        let is_wanted = |key: &str| {
            seen.fetch_add(1, Ordering::Relaxed);
            LISTED.iter().any(|suffix| key.ends_with(suffix)) && !key.split('/').any(|part| part.starts_with('.'))
        };
        let listed = list_sorted(source.as_ref(), folder, is_wanted).await?;
        if seen.into_inner() == 0 && !folder.is_empty() {
            // Object stores have no folders, only names.
            return Err(
                Error::new(ErrorKind::NotFound, "list", source.uri_of(folder)).because("there is nothing below it")
            );
        }
        Ok(listed.into_iter().map(|object| object.key).collect())
    }

    async fn get(&self, name: &str, unpack: bool) -> Result<Value> {
        if unpack {
            let held = self.held()?.lock().take(name);
            if let Some(value) = held {
                return Ok(value);
            }
        }
        self.read(name, unpack).await
    }

    async fn read(&self, name: &str, unpack: bool) -> Result<Value> {
        let (engine, source) = (Engine::current()?, self.source().await?);
        let is_plain = codec::by_suffix(name).0.suffix().is_empty();
        if !is_plain && !unpack {
            return Err(Error::new(ErrorKind::Unsupported, "read", source.uri_of(name))
                .because("it is compressed, and is not to be decompressed"));
        }
        let read = |name: String| {
            let source = source.clone();
            async move { source.read(&ReadRequest::whole(name), engine.buffers()).await }
        };
        let object: ObjectBytes = match read(name.to_owned()).await {
            Err(missing) if missing.kind() == ErrorKind::NotFound && is_plain && unpack => {
                match read(format!("{name}{}", codec::Zstd.suffix())).await {
                    // That the object asked for is not there is the news.
                    Err(other) if other.kind() == ErrorKind::NotFound => return Err(missing),
                    other => other?,
                }
            }
            other => other?,
        };
        let name = source.uri_of(&object.meta.key);
        engine.workers()?.run(move || super::decode(&name, &object.bytes).map(in_dict)).await
    }

    async fn prefetch(&self, names: Vec<String>) -> Result<Vec<bool>> {
        self.source().await?;
        let fetched = stream::iter(names).map(|name| async move { self.hold(name).await }).buffered(AHEAD_AT_ONCE);
        Ok(fetched.collect().await)
    }

    /// Fetches an object to be held; whether it is.
    async fn hold(&self, name: String) -> bool {
        let Ok(held) = self.held() else { return false };
        if held.lock().has(&name) {
            return true;
        }
        if held.lock().is_full() {
            return false;
        }
        match self.read(&name, true).await {
            Ok(value) => held.lock().put(name, value),
            Err(error) => {
                tracing::debug!("cannot fetch ahead: {}", error.report());
                false
            }
        }
    }
}

fn in_dict(value: Value) -> Value {
    match value {
        Value::Dict(dict) => Value::Dict(dict),
        other => Value::Dict(Dict { items: vec![(Value::Str(UNNAMED.to_owned()), other)], ordered: false }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::uninterrupted;

    fn place(folder: &std::path::Path) -> Place {
        let spec = SourceSpec::from(folder.to_str().expect("UTF-8"));
        Place::open(&spec, &FetchConfig::default(), uninterrupted()).expect("opens")
    }

    fn number(value: &Value) -> Option<&Value> {
        if let Value::Dict(dict) = value { dict.get("number") } else { None }
    }

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn objects_are_listed_read_and_held_by_name() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("sub")).expect("folder");
        for (name, it) in [("b.pt", 1), ("sub/a.pt", 2)] {
            let value: Dict = [("number", it)].into_iter().collect();
            super::super::save(&folder.path().join(name), &value.into()).expect("saved");
        }
        std::fs::write(folder.path().join("notes.txt"), "none").expect("written");
        let place = place(folder.path());
        assert_eq!(place.list("", uninterrupted()).expect("lists"), ["b.pt", "sub/a.pt"]);
        assert_eq!(place.list("sub/", uninterrupted()).expect("lists"), ["sub/a.pt"]);
        assert_eq!(place.list("none", uninterrupted()).expect_err("nothing").kind(), ErrorKind::NotFound);
        let names = ["sub/a.pt", "gone.pt"].map(str::to_owned).to_vec();
        assert_eq!(place.prefetch(names, uninterrupted()).expect("fetched"), [true, false]);
        std::fs::remove_file(folder.path().join("sub/a.pt")).expect("removed");
        let held = place.get("sub/a.pt", true, uninterrupted()).expect("held");
        assert_eq!(number(&held), Some(&Value::Int(2)));
        let error = place.get("sub/a.pt", true, uninterrupted()).expect_err("handed out once");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(number(&place.get("b.pt", false, uninterrupted()).expect("read")), Some(&Value::Int(1)));
    }
}
