//! Opening: connect, then find or make the manifest.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::{join_all, try_join_all};

use super::{Dataset, Expansion, Inner};
use crate::config::{self, DatasetConfig};
use crate::engine::{Engine, Interrupt, PerProcess};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::{self, Lazy, Signals};
use crate::format::{self, Limits};
use crate::manifest::{FieldListing, KeyPattern, Listing, Manifest, join, store};
use crate::metrics::{Metric, Metrics};
use crate::source::{self, Source, SourceSpec, Transport};

/// What a value is called in a sample when its field has no name and it is no dict.
pub(super) const UNNAMED: &str = "data";

pub(super) fn open(config: &DatasetConfig, interrupt: Interrupt<'_>) -> Result<Dataset> {
    let engine = Engine::current()?;
    let config = &config.clone().with_absolute_paths()?;
    let metrics = Arc::new(Metrics::default());
    let sources = connect(engine, config, &metrics, interrupt)?;
    let path = config::home().map(|home| store::path_for(&home, &identity(config, &sources)));
    let kept = path.as_deref().filter(|_| !sources.iter().any(|source| source.is_local())).and_then(|path| {
        // Of what cannot change, any manifest is fresh.
        let holds = sources.iter().all(|source| source.is_pinned());
        let fresh = store::age(path).is_some_and(|age| holds || age < config.manifest_max_age.0);
        fresh.then(|| store::load(path).ok()).flatten()
    });
    let manifest = if let Some(manifest) = kept {
        manifest
    } else {
        let manifest = list(engine, config, &sources, interrupt)?;
        if let Some(Err(error)) = path.as_deref().map(|path| store::save(path, &manifest)) {
            tracing::warn!("{}; every process will list again", error.report());
        }
        manifest
    };
    Ok(assemble(config.clone(), manifest, metrics, PerProcess::with(sources)))
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
    let opened = specs.into_iter().zip(opened).map(|(spec, opened)| match opened {
        Err(error) if one_is_there && error.kind() != ErrorKind::Invalid => {
            tracing::warn!("going on without a replica: {}", error.report());
            Ok(Arc::new(Lazy::new(spec, transport)) as Arc<dyn Source>)
        }
        opened => opened,
    });
    opened.collect()
}

/// What tells this dataset's manifest from others: where objects come from and how they are joined.
fn identity(config: &DatasetConfig, sources: &[Arc<dyn Source>]) -> String {
    let parts: Vec<_> = config
        .sources()
        .iter()
        .zip(sources)
        .map(|((name, specs), source)| {
            let options: Vec<_> = specs.iter().map(|spec| spec.options.without_secrets()).collect();
            let options = serde_json::to_string(&options).unwrap_or_default();
            format!("{name}\n{}\n{options}", source.uri())
        })
        .collect();
    format!("{}\n{:?}\n{:?}", parts.join("\n"), config.pairs, config.on_missing)
}

fn list(
    engine: &'static Engine,
    config: &DatasetConfig,
    sources: &[Arc<dyn Source>],
    interrupt: Interrupt<'_>,
) -> Result<Manifest> {
    let to_list = sources.to_vec();
    let listing = async move {
        let readable: fn(&str) -> bool = |key| format::decoder_of(key).is_some();
        try_join_all(to_list.iter().map(|source| Listing::collect(source.as_ref(), readable))).await
    };
    let listings = engine.block_on("listing the sources", listing, interrupt)??;
    let fields = field_listings(config, sources, &listings)?;
    let joined = join(&fields, config.on_missing, format::stem)?;
    if joined.shadowed > 0 {
        tracing::info!("{} compressed objects were passed over because the plain one is there too", joined.shadowed);
    }
    if joined.unmatched > 0 {
        tracing::warn!("{} objects do not match the pattern of their field and were passed over", joined.unmatched);
    }
    let missing = joined.manifest.missing();
    if missing.count > 0 {
        let examples = missing.examples.join(", ");
        tracing::warn!("{} objects are missing ({examples} …); their samples are left out", missing.count);
    }
    Ok(joined.manifest)
}

fn field_listings<'a>(
    config: &DatasetConfig,
    sources: &'a [Arc<dyn Source>],
    listings: &'a [Listing],
) -> Result<Vec<FieldListing<'a>>> {
    let names: Vec<(String, String)> = match &config.source {
        None => config.fields.keys().map(|name| (name.clone(), String::new())).collect(),
        Some(_) => folders(&listings[0]).into_iter().map(|name| (name.clone(), name + "/")).collect(),
    };
    let names = if names.is_empty() { vec![(String::new(), String::new())] } else { names };
    let shared = config.source.is_some();
    if let Some(unknown) = config.pairs.keys().find(|&pair| !names.iter().any(|(name, _)| name == pair)) {
        return Err(Error::new(ErrorKind::Invalid, "use", unknown)
            .because(format_args!("`pairs` names a field that is not there; there {}", fields_there(&names))));
    }
    let loose = listings[0].keys().filter(|key| shared && !key.contains('/')).count();
    if loose > 0 && names[0].1.ends_with('/') {
        tracing::warn!("{loose} objects lie beside the folders of `{}` and were passed over", sources[0].uri());
    }
    names
        .into_iter()
        .enumerate()
        .map(|(number, (name, folder))| {
            let at = if shared { 0 } else { number };
            let pattern =
                config.pairs.get(&name).map_or(Ok(KeyPattern::default()), |pattern| KeyPattern::parse(pattern))?;
            let (uri, listing) = (sources[at].uri(), &listings[at]);
            Ok(FieldListing { name: name.into(), uri, folder, pattern, listing })
        })
        .collect()
}

fn fields_there(names: &[(String, String)]) -> String {
    match names {
        [(only, _)] if only.is_empty() => "is one without a name, \"\"".to_owned(),
        names => {
            let names: Vec<_> = names.iter().map(|(name, _)| format!("`{name}`")).collect();
            format!("are {}", names.join(", "))
        }
    }
}

/// Top-level folders that hold readable objects, sorted.
fn folders(listing: &Listing) -> Vec<String> {
    let folders: BTreeSet<&str> =
        listing.keys().filter_map(|key| key.split_once('/')).map(|(folder, _)| folder).collect();
    folders.into_iter().map(str::to_owned).collect()
}
