//! Opening: connect, then find or make the manifest.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::future::{join_all, try_join_all};

use super::{Dataset, Expansion, Inner, indexing};
use crate::config::DatasetConfig;
use crate::engine::{Engine, Interrupt, PerProcess};
use crate::error::{ErrorKind, Result};
use crate::fetch::{self, Lazy, Signals};
use crate::format::Limits;
use crate::manifest::Manifest;
use crate::metrics::{Metric, Metrics};
use crate::source::{self, Source, SourceSpec, Transport};

/// What a value is called in a sample when its field has no name and it is no dict.
pub(super) const UNNAMED: &str = "data";

pub(super) fn open(config: &DatasetConfig, interrupt: Interrupt<'_>) -> Result<Dataset> {
    let engine = Engine::current()?;
    let config = &config.clone().with_absolute_paths()?;
    let metrics = Arc::new(Metrics::default());
    let sources = connect(engine, config, &metrics, interrupt)?;
    let manifest = indexing::find_or_make(engine, config, &sources, interrupt)?;
    Ok(assemble(config.clone(), manifest, metrics, PerProcess::with(sources)))
}

/// Opens a dataset by listing its sources, whatever is kept of them; `listed` counts the objects as they are found.
pub(super) fn index(config: &DatasetConfig, listed: &Arc<AtomicU64>, interrupt: Interrupt<'_>) -> Result<Dataset> {
    let engine = Engine::current()?;
    let config = config.clone().with_absolute_paths()?;
    let metrics = Arc::new(Metrics::default());
    let sources = connect(engine, &config, &metrics, interrupt)?;
    let manifest = indexing::list(engine, &config, &sources, listed, interrupt)?;
    indexing::keep(&config, &sources, &manifest);
    Ok(assemble(config, manifest, metrics, PerProcess::with(sources)))
}

pub(super) fn assemble(
    config: DatasetConfig,
    manifest: Manifest,
    metrics: Arc<Metrics>,
    sources: PerProcess<Vec<Arc<dyn Source>>>,
) -> Dataset {
    let is_spread = manifest.field_names().any(|name| name.is_empty());
    let or_unnamed = |name: &Arc<str>| if name.is_empty() { UNNAMED.into() } else { name.clone() };
    let renamed = |name: Arc<str>| config.rename.get(&*name).map_or(name, |new| new.as_str().into());
    let names = manifest.field_names().map(or_unnamed).map(renamed).collect();
    metrics.set(Metric::ManifestSamples, manifest.len() as u64);
    metrics.set(Metric::ManifestMissing, manifest.missing().count);
    metrics.set(Metric::ManifestBytes, manifest.memory_bytes() as u64);
    let (limits, expansion, kept) = (Limits::default(), Expansion::default(), PerProcess::new());
    let inner = Inner { config, manifest, names, is_spread, limits, expansion, metrics, sources, kept };
    Dataset { inner: Arc::new(inner) }
}

/// Opens the sources of all fields at once and puts the fetch policies around them.
pub(super) fn connect(
    engine: &'static Engine,
    config: &DatasetConfig,
    metrics: &Arc<Metrics>,
    interrupt: Interrupt<'_>,
) -> Result<Vec<Arc<dyn Source>>> {
    let fields = config.sources();
    let policies = config.fetch.policies()?;
    let transport = policies.transport;
    let opening = async move { try_join_all(fields.into_iter().map(|(_, specs)| replicas(specs, transport))).await };
    let fields = engine.block_on("opening the sources", opening, interrupt)??;
    if let Some(throttling) = policies.throttling {
        let places = fields.iter().flatten().map(|source| source.uri()).collect::<Vec<_>>().join("`, `");
        tracing::warn!("reading from `{places}` through an emulated remote: {throttling}");
    }
    // None is left alone yet, whatever the process that this one was forked from knew.
    metrics.set(Metric::ReplicasOpen, 0);
    let signals = || Arc::new(Signals::new(metrics.clone()));
    Ok(fields.into_iter().map(|replicas| fetch::with_policies(replicas, &policies, &signals())).collect())
}

/// Opens a field's replicas. One that cannot be reached is opened later, as long as another one is there.
async fn replicas(specs: Vec<SourceSpec>, transport: Transport) -> Result<Vec<Arc<dyn Source>>> {
    let opened = join_all(specs.iter().map(|spec| source::open_with(spec, &transport))).await;
    let one_is_there = opened.iter().any(Result::is_ok);
    if !one_is_there && specs.len() > 1 {
        let name = specs.iter().map(SourceSpec::shown_uri).collect::<Vec<_>>().join("`, `");
        let errors: Vec<_> = opened.into_iter().filter_map(Result::err).collect();
        let wrong = errors.iter().find(|error| error.kind() == ErrorKind::Invalid).cloned();
        return Err(wrong.unwrap_or_else(|| fetch::all_failed("open", &name, &errors)));
    }
    let opened = specs.into_iter().zip(opened).map(|(spec, opened)| match opened {
        Err(error) if one_is_there && error.kind() != ErrorKind::Invalid => {
            tracing::warn!("going on without a replica: {}", error.report());
            Ok(Arc::new(Lazy::new(spec, transport)) as Arc<dyn Source>)
        }
        opened => opened,
    });
    opened.collect()
}
