//! Manifests that one process publishes for others ([`DatasetConfig::manifest`]).
//!
//! Such a manifest is used as it is, whoever opens the dataset: at a path, at a URI of an object, or beside the data. Where it is
//! not there, the process that lists makes it; those that [follow](DatasetConfig::follow) wait for it, asking again and again
//! over one connection, less and less often. Nobody who reads one needs the right to list.
//!
//! One of another dataset is refused ([`origin`](super::origin)).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::indexing::{POLL, list, wait};
use super::origin::fitting;
use crate::config::DatasetConfig;
use crate::engine::{Engine, Interrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch;
use crate::manifest::{Manifest, store};
use crate::source::{self, ReadRequest, Source, SourceSpec};

/// What [`DatasetConfig::manifest`] says for a manifest beside the data.
pub(super) const BESIDE: &str = "published";
/// What that manifest is called there. No decoder reads such names, so that it is no sample.
const BESIDE_KEY: &str = "_headwater.manifest";
/// How often a place that many may be looking at is looked at, when nothing has come for long.
const LONGEST_POLL: Duration = Duration::from_secs(4);

/// The manifest at a place that was named: read, waited for, or made and left there.
pub(super) fn open(
    engine: &'static Engine,
    config: &DatasetConfig,
    sources: &[Arc<dyn Source>],
    place: &str,
    interrupt: Interrupt<'_>,
) -> Result<Manifest> {
    let deadline = Instant::now() + config.manifest_timeout.0;
    let mut pause = POLL;
    let mut holder = None;
    // The last answer, since what is under way at the end says less.
    let mut heard: Option<Error> = None;
    let until = config.follow.then_some(deadline);
    loop {
        let found = Holder::kept(&mut holder, engine, config, sources, place, until, interrupt);
        match found.and_then(|holder| holder.read(engine, until, interrupt)) {
            Ok(manifest) => return fitting(engine, config, sources, manifest, &shown(sources, place), interrupt),
            // A store in trouble is no reason to give up.
            Err(error) if config.follow && may_come(&error) && Instant::now() < deadline => {
                let was_denied = heard.as_ref().is_some_and(|before| before.kind() == ErrorKind::Denied);
                if error.kind() == ErrorKind::Denied && !was_denied {
                    tracing::warn!(
                        "waiting for the manifest though it is refused, as stores refuse what is not there to who may not list: {}",
                        error.report()
                    );
                }
                wait(
                    pause.mul_f64(fetch::jitter()).min(deadline.saturating_duration_since(Instant::now())),
                    interrupt,
                )?;
                pause = (pause * 2).min(LONGEST_POLL);
                heard = Some(error);
            }
            Err(error) if config.follow && may_come(&error) => {
                let error = heard.unwrap_or(error);
                let refused = match error.kind() {
                    ErrorKind::Denied => " Or may it not be read? Stores refuse what is not there to who may not list.",
                    _ => "",
                };
                let words = format!(
                    "it is not there after {} s ({}); is rank 0 listing?{refused}",
                    config.manifest_timeout.0.as_secs(),
                    error.report()
                );
                return Err(Error::new(ErrorKind::Timeout, "wait for manifest", shown(sources, place)).because(words));
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Err(error) if place == BESIDE => {
                return Err(error.because("make it with `headwater index <URI> --publish`"));
            }
            Err(_) => {
                check_place(config, place)?;
                let manifest = list(engine, config, sources, &Arc::default(), interrupt)?;
                publish(engine, config, sources, &manifest, place, interrupt)?;
                return Ok(manifest);
            }
        }
    }
}

fn may_come(error: &Error) -> bool {
    let is_refused = error.kind() == ErrorKind::Denied && !error.is_unasked();
    is_refused || error.kind() == ErrorKind::NotFound || error.is_transient()
}

/// Makes sure that a manifest can be left at a place, before a long listing.
pub(super) fn check_place(config: &DatasetConfig, place: &str) -> Result<()> {
    let sources = config.sources();
    let beside = sources.first().and_then(|(_, specs)| specs.first()).map(|spec| &*spec.uri);
    source::check_writable(if place == BESIDE { beside.unwrap_or_default() } else { place })
}

/// Leaves a manifest at a place: a path, a URI of an object, or beside the data. Says where that is.
pub(super) fn publish(
    engine: &'static Engine,
    config: &DatasetConfig,
    sources: &[Arc<dyn Source>],
    manifest: &Manifest,
    place: &str,
    interrupt: Interrupt<'_>,
) -> Result<String> {
    Holder::new(engine, config, sources, place, None, interrupt)?.write(engine, manifest, interrupt)
}

/// Where a manifest lies.
enum Holder {
    File(PathBuf),
    Object(Arc<dyn Source>, String),
}

impl Holder {
    fn new(
        engine: &'static Engine,
        config: &DatasetConfig,
        sources: &[Arc<dyn Source>],
        place: &str,
        until: Option<Instant>,
        interrupt: Interrupt<'_>,
    ) -> Result<Self> {
        if place == BESIDE {
            return Ok(Self::Object(sources[0].clone(), BESIDE_KEY.to_owned()));
        }
        if let Some(path) = source::local_path(place)? {
            return Ok(Self::File(path));
        }
        let (parent, key) = place
            .rsplit_once('/')
            // What stands behind a question mark is no name, and may be a signature.
            .filter(|(parent, key)| !parent.ends_with('/') && !key.is_empty() && !place.contains('?'))
            .ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "use manifest", SourceSpec::from(place).shown_uri()).because(
                    "give the path of a file, its URI without a query, or \"published\" for the one beside the data",
                )
            })?;
        let (spec, mut policies) = (config.with_defaults("", &parent.into()), config.fetch.policies()?);
        policies.transport.look = false;
        let opening = async move {
            let name = spec.shown_uri();
            within(until, "open", name, fetch::open(&spec, &policies)).await
        };
        let source = engine.block_on("opening the place of the manifest", opening, interrupt)??;
        let source = fetch::with_policies(vec![source], &policies, &Arc::default());
        Ok(Self::Object(source, key.to_owned()))
    }

    /// The one that was opened before, or a new one.
    fn kept<'a>(
        kept: &'a mut Option<Self>,
        engine: &'static Engine,
        config: &DatasetConfig,
        sources: &[Arc<dyn Source>],
        place: &str,
        until: Option<Instant>,
        interrupt: Interrupt<'_>,
    ) -> Result<&'a Self> {
        if kept.is_none() {
            *kept = Some(Self::new(engine, config, sources, place, until, interrupt)?);
        }
        kept.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "use manifest", place))
    }

    fn read(&self, engine: &'static Engine, until: Option<Instant>, interrupt: Interrupt<'_>) -> Result<Manifest> {
        match self {
            Self::File(path) => store::load(path),
            Self::Object(source, key) => {
                let (source, key) = (source.clone(), key.clone());
                let reading = async move {
                    let request = ReadRequest::whole(&*key);
                    let object = source.read(&request, engine.buffers());
                    let object = within(until, "read", source.uri_of(&key), object).await?;
                    store::from_bytes(&object.bytes, &source.uri_of(&key))
                };
                engine.block_on("reading the manifest", reading, interrupt)?
            }
        }
    }

    fn write(&self, engine: &'static Engine, manifest: &Manifest, interrupt: Interrupt<'_>) -> Result<String> {
        match self {
            Self::File(path) => {
                store::save_as(path, manifest)?;
                Ok(path.display().to_string())
            }
            Self::Object(source, key) => {
                let (source, key, bytes) = (source.clone(), key.clone(), store::encode(manifest).into());
                let publishing = async move {
                    source.publish(&key, bytes).await?;
                    Ok(source.uri_of(&key))
                };
                engine.block_on("publishing the manifest", publishing, interrupt)?
            }
        }
    }
}

/// What `work` gives, if it does so in time.
async fn within<T>(
    until: Option<Instant>,
    op: &'static str,
    name: String,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(until) = until else { return work.await };
    let late = |_| Err(Error::new(ErrorKind::Timeout, op, name).because("it was under way when the wait was over"));
    timeout_at(until.into(), work).await.unwrap_or_else(late)
}

fn shown(sources: &[Arc<dyn Source>], place: &str) -> String {
    if place == BESIDE { sources[0].uri_of(BESIDE_KEY) } else { SourceSpec::from(place).shown_uri() }
}
