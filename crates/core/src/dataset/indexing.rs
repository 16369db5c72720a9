//! Finding or making the manifest: [published], kept by this machine, or listed now.
//!
//! Without a published one, a process uses what another of this machine has kept lately, and while one lists, the others wait
//! for it instead of listing too.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use crate::config::{self, DatasetConfig};
use crate::engine::{Engine, Interrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::format;
use crate::manifest::{FieldListing, KeyPattern, Listing, Manifest, guess_pairs, join, store};
use crate::source::Source;

use super::{origin, published};

/// How often a manifest that another process of this machine is making is looked for.
pub(super) const POLL: Duration = Duration::from_millis(200);

pub(super) fn find_or_make(
    engine: &'static Engine,
    config: &DatasetConfig,
    sources: &[Arc<dyn Source>],
    interrupt: Interrupt<'_>,
) -> Result<Manifest> {
    match &config.manifest {
        Some(place) => published::open(engine, config, sources, place, interrupt),
        None => kept(engine, config, sources, interrupt),
    }
}

/// The manifest that this machine keeps, or a new one.
fn kept(
    engine: &'static Engine,
    config: &DatasetConfig,
    sources: &[Arc<dyn Source>],
    interrupt: Interrupt<'_>,
) -> Result<Manifest> {
    let list = || list(engine, config, sources, &Arc::default(), interrupt);
    let Some(path) = path_of(config, sources) else { return list() };
    let deadline = Instant::now() + config.manifest_timeout.0;
    let _turn = loop {
        // Of what cannot change, any manifest is fresh.
        let holds = sources.iter().all(|source| source.is_pinned());
        let is_fresh = store::age(&path).is_some_and(|age| holds || age < config.manifest_max_age.0);
        if let Some(manifest) = is_fresh.then(|| store::load(&path).ok()).flatten() {
            return Ok(manifest);
        }
        match store::Turn::take(&path) {
            Some(turn) => break Some(turn),
            None if Instant::now() > deadline => {
                tracing::warn!(
                    "another process has been listing for {} s; listing here too",
                    config.manifest_timeout.0.as_secs()
                );
                break None;
            }
            None => wait(POLL, interrupt)?,
        }
    };
    let manifest = list()?;
    keep(config, sources, &manifest);
    Ok(manifest)
}

/// Keeps a manifest for other processes of this machine, if there is a place for it.
pub(super) fn keep(config: &DatasetConfig, sources: &[Arc<dyn Source>], manifest: &Manifest) {
    let path = path_of(config, sources);
    if let Some(Err(error)) = path.map(|path| store::save(&path, manifest)) {
        tracing::warn!("{}; every process will list again", error.report());
    }
}

/// Where this machine keeps the manifest. `None` for local sources, which are listed each time, and where there is no home.
fn path_of(config: &DatasetConfig, sources: &[Arc<dyn Source>]) -> Option<PathBuf> {
    let is_remote = !sources.iter().any(|source| source.is_local());
    config::home().filter(|_| is_remote).map(|home| store::path_for(&home, &identity(config, sources)))
}

pub(super) fn wait(pause: Duration, interrupt: Interrupt<'_>) -> Result<()> {
    let ends = Instant::now() + pause;
    while Instant::now() < ends {
        std::thread::sleep(POLL.min(ends.saturating_duration_since(Instant::now())));
        interrupt()?;
    }
    Ok(())
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
            format!("{name}\n{}\n{}\n{options}", source.uri(), source.endpoint().unwrap_or_default())
        })
        .collect();
    let guessed = if config.guess_pairs { "\nguessed" } else { "" };
    format!("{}\n{:?}\n{:?}{guessed}", parts.join("\n"), config.pairs, config.on_missing)
}

/// Lists the sources and joins what is there; `listed` counts the objects as they are found.
pub(super) fn list(
    engine: &'static Engine,
    config: &DatasetConfig,
    sources: &[Arc<dyn Source>],
    listed: &Arc<AtomicU64>,
    interrupt: Interrupt<'_>,
) -> Result<Manifest> {
    let (to_list, listed) = (sources.to_vec(), listed.clone());
    let listing = async move {
        let readable: fn(&str) -> bool = |key| format::decoder_of(key).is_some();
        try_join_all(to_list.iter().map(|source| Listing::collect(source.as_ref(), readable, &listed))).await
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
    Ok(joined.manifest.of(origin::of(config, sources)))
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
    let at = |number: usize| if shared { 0 } else { number };
    let guessed = if config.guess_pairs {
        let fields = names.iter().enumerate().map(|(number, (_, folder))| (&listings[at(number)], &**folder));
        guess_pairs(&fields.collect::<Vec<_>>(), format::stem)
    } else {
        vec![KeyPattern::default(); names.len()]
    };
    names
        .into_iter()
        .zip(guessed)
        .enumerate()
        .map(|(number, ((name, folder), guessed))| {
            let pattern = config.pairs.get(&name).map_or(Ok(guessed), |pattern| KeyPattern::parse(pattern))?;
            let (uri, listing) = (sources[at(number)].uri(), &listings[at(number)]);
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
