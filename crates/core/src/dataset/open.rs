//! Opening: connect, then find or make the manifest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, timeout_at};

use super::{Dataset, Expansion, Inner, Stored, indexing, on_disk};
use crate::clock::Clock;
use crate::config::DatasetConfig;
use crate::engine::{Engine, Interrupt, PerProcess};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::{self, Lazy, Policies};
use crate::format::Limits;
use crate::manifest::Manifest;
use crate::metrics::{Metric, Metrics};
use crate::source::{self, Source, SourceSpec};

/// What a value is called in a sample when its field has no name and it is no dict.
pub(super) const UNNAMED: &str = "data";

/// Once a replica is open, the others get so much longer.
const REPLICA_PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn open(config: &DatasetConfig, clock: Clock, interrupt: Interrupt<'_>) -> Result<Dataset> {
    let engine = Engine::current()?;
    let mut config = config.clone().with_absolute_paths()?;
    on_disk::make_place(&config)?;
    let metrics = Arc::new(Metrics::default());
    let sources = connect_first(engine, &mut config, &metrics, interrupt)?;
    let manifest = indexing::find_or_make(engine, &config, &sources, interrupt)?;
    assemble(config, manifest, metrics, PerProcess::with(sources), clock)
}

/// Opens a dataset by listing its sources, whatever is kept of them; `listed` counts the objects as they are found.
pub(super) fn index(config: &DatasetConfig, listed: &Arc<AtomicU64>, interrupt: Interrupt<'_>) -> Result<Dataset> {
    let engine = Engine::current()?;
    let mut config = config.clone().with_absolute_paths()?;
    let metrics = Arc::new(Metrics::default());
    let sources = connect_first(engine, &mut config, &metrics, interrupt)?;
    let manifest = indexing::list(engine, &config, &sources, listed, interrupt)?;
    indexing::keep(&config, &sources, &manifest);
    assemble(config, manifest, metrics, PerProcess::with(sources), Clock::default())
}

pub(super) fn assemble(
    config: DatasetConfig,
    manifest: Manifest,
    metrics: Arc<Metrics>,
    sources: PerProcess<Vec<Arc<dyn Source>>>,
    clock: Clock,
) -> Result<Dataset> {
    let is_spread = manifest.field_names().any(|name| name.is_empty());
    let names = names(&config, &manifest)?;
    metrics.set(Metric::ManifestSamples, manifest.len() as u64);
    metrics.set(Metric::ManifestMissing, manifest.missing().count);
    metrics.set(Metric::ManifestBytes, manifest.memory_bytes() as u64);
    let stored = Stored::of(&manifest, manifest.field_names().count());
    let ahead = AtomicUsize::new(config.prefetch.ahead);
    let (limits, expansion, kept) = (Limits::default(), Expansion::default(), PerProcess::new());
    let inner = Inner {
        config,
        manifest,
        names,
        is_spread,
        limits,
        expansion,
        stored,
        clock,
        metrics,
        spared: AtomicU64::new(0),
        ahead,
        has_replicas: AtomicBool::new(false),
        sources,
        kept,
    };
    Ok(Dataset { inner: Arc::new(inner) })
}

/// What fields are called in samples.
fn names(config: &DatasetConfig, manifest: &Manifest) -> Result<Vec<Arc<str>>> {
    let or_unnamed = |name: &Arc<str>| if name.is_empty() { UNNAMED.into() } else { name.clone() };
    let renamed = |name: Arc<str>| config.rename.get(&*name).map_or(name, |new| new.as_str().into());
    let names: Vec<Arc<str>> = manifest.field_names().map(or_unnamed).map(renamed).collect();
    let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
    if let Some((_, name)) = twice {
        return Err(Error::new(ErrorKind::Invalid, "use", name).because("two fields would be called that in samples"));
    }
    Ok(names)
}

/// Opens the sources of all fields at once and puts the fetch policies around them.
pub(super) fn connect(
    engine: &'static Engine,
    config: &DatasetConfig,
    metrics: &Arc<Metrics>,
    interrupt: Interrupt<'_>,
) -> Result<Vec<Arc<dyn Source>>> {
    let opened = open_sources(engine, config, interrupt)?;
    surround(opened, config, metrics)
}

/// The same of a dataset that is being opened: what is pinned now stays so, in whatever process it is opened again.
fn connect_first(
    engine: &'static Engine,
    config: &mut DatasetConfig,
    metrics: &Arc<Metrics>,
    interrupt: Interrupt<'_>,
) -> Result<Vec<Arc<dyn Source>>> {
    let opened = open_sources(engine, config, interrupt)?;
    for (spec, source) in config.specs_mut().zip(opened.iter().flatten()).filter(|(_, source)| source.is_pinned()) {
        source.uri().clone_into(&mut spec.uri);
    }
    surround(opened, config, metrics)
}

/// The replicas of every field.
fn open_sources(
    engine: &'static Engine,
    config: &DatasetConfig,
    interrupt: Interrupt<'_>,
) -> Result<Vec<Vec<Arc<dyn Source>>>> {
    let (fields, mut policies) = (config.sources(), config.fetch.policies()?);
    // Whoever has a manifest need not list.
    policies.transport.look = config.manifest.is_none();
    let opening = async move { try_join_all(fields.into_iter().map(|(_, specs)| replicas(specs, policies))).await };
    engine.block_on("opening the sources", opening, interrupt)?
}

fn surround(
    fields: Vec<Vec<Arc<dyn Source>>>,
    config: &DatasetConfig,
    metrics: &Arc<Metrics>,
) -> Result<Vec<Arc<dyn Source>>> {
    let policies = config.fetch.policies()?;
    if let Some(throttling) = policies.throttling {
        let places = fields.iter().flatten().map(|source| source.uri()).collect::<Vec<_>>().join("`, `");
        tracing::warn!("reading from `{places}` through an emulated remote: {throttling}");
    }
    // None is left alone yet, whatever the process that this one was forked from knew.
    metrics.set(Metric::ReplicasOpen, 0);
    Ok(fields.into_iter().map(|replicas| fetch::with_policies(replicas, &policies, metrics)).collect())
}

/// Opens a field's replicas. One that cannot be reached, or takes long when another one is there, is opened later.
async fn replicas(specs: Vec<SourceSpec>, policies: Policies) -> Result<Vec<Arc<dyn Source>>> {
    let mut opening: FuturesUnordered<_> =
        specs.iter().enumerate().map(|(at, spec)| async move { (at, fetch::open(spec, &policies).await) }).collect();
    let mut opened: Vec<Option<Result<Arc<dyn Source>>>> = specs.iter().map(|_| None).collect();
    let mut until = None;
    loop {
        let next = match until {
            None => opening.next().await,
            Some(until) => timeout_at(until, opening.next()).await.unwrap_or(None),
        };
        let Some((at, result)) = next else { break };
        if result.is_ok() {
            until.get_or_insert_with(|| Instant::now() + REPLICA_PATIENCE);
        }
        opened[at] = Some(result);
    }
    drop(opening);
    let one_is_there = until.is_some();
    if !one_is_there && specs.len() > 1 {
        let name = specs.iter().map(SourceSpec::shown_uri).collect::<Vec<_>>().join("`, `");
        let errors: Vec<_> = opened.into_iter().flatten().filter_map(Result::err).collect();
        let wrong = errors.iter().find(|error| error.kind() == ErrorKind::Invalid).cloned();
        return Err(wrong.unwrap_or_else(|| fetch::all_failed("open", &name, &errors)));
    }
    let mut replicas: Vec<Arc<dyn Source>> = Vec::new();
    for (spec, opened) in specs.into_iter().zip(opened) {
        let words = match opened {
            Some(Ok(source)) => {
                replicas.push(source);
                continue;
            }
            Some(Err(error)) if !one_is_there => return Err(error),
            // What is written wrong is not what a server finds wrong, which others may serve all the same.
            Some(Err(error)) if error.kind() == ErrorKind::Invalid && source::probe(&spec).await.is_err() => {
                return Err(error);
            }
            Some(Err(error)) => error.report(),
            None => format!("`{}` takes long to open", spec.shown_uri()),
        };
        tracing::warn!("going on without a replica: {words}");
        let endpoint = source::probe(&spec).await.ok().and_then(|probe| probe.endpoint().map(str::to_owned));
        replicas.push(Arc::new(Lazy::new(spec, endpoint, policies.transport)));
    }
    Ok(replicas)
}
