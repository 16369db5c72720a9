//! Whether a manifest that somebody published is of this dataset.
//!
//! A manifest says what it was made of. What decides which samples there are must be the reader's: fields, patterns, what is done
//! about missing objects. Where the objects lie need not be: a folder is published on its disk and read over HTTP, a bucket is
//! copied. There a few objects are looked at. Another size or another hash is another dataset; versions that say nothing of the
//! reader's place are left out, so that objects are held to their sizes.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::try_join_all;

use crate::buffer::BufferPool;
use crate::config::{DatasetConfig, OnChanged};
use crate::engine::{Engine, Interrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{KeyPattern, Manifest, Origin};
use crate::source::{ObjectMeta, ReadRequest, Source, SourceSpec, Version, check_version, tell_contents_apart};

/// What a manifest of this dataset is made of.
pub(super) fn of(config: &DatasetConfig, sources: &[Arc<dyn Source>]) -> Origin {
    let names = || config.sources().into_iter().map(|(name, _)| name).zip(sources);
    let pairs = config.pairs.iter().map(|(name, pattern)| (name.clone(), pattern.clone())).collect();
    Origin {
        places: names().map(|(name, source)| (name, source.uri().to_owned())).collect(),
        endpoints: names().filter_map(|(name, source)| Some((name, shown(source.endpoint()?)))).collect(),
        pairs: telling(pairs),
        on_missing: config.on_missing,
    }
}

/// Without secrets.
fn shown(endpoint: &str) -> String {
    SourceSpec::from(endpoint).shown_uri()
}

/// Patterns but the one that fields have anyhow.
fn telling(mut pairs: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let usual = KeyPattern::default().to_string();
    pairs.retain(|_, pattern| *pattern != usual);
    pairs
}

/// The manifest, if it is of this dataset; `place` is where it lies.
pub(super) fn fitting(
    engine: &'static Engine,
    config: &DatasetConfig,
    sources: &[Arc<dyn Source>],
    manifest: Manifest,
    place: &str,
    interrupt: Interrupt<'_>,
) -> Result<Manifest> {
    let failed = |kind| Error::new(kind, "use manifest", place);
    let refused = |words: String| failed(ErrorKind::Invalid).because(words);
    let fields: Vec<_> = manifest.field_names().map(|name| &**name).collect();
    if !config.fields.is_empty() && !fields.iter().copied().eq(config.fields.keys()) {
        return Err(refused(format!("it is of other fields: `{}`", fields.join("`, `"))));
    }
    let ours = of(config, sources);
    let theirs = manifest.origin().cloned().map(|theirs| Origin { pairs: telling(theirs.pairs), ..theirs });
    if let Some(theirs) = &theirs {
        if theirs.pairs != ours.pairs || theirs.on_missing != ours.on_missing {
            return Err(refused(format!(
                "it was made with pairs {:?} and on_missing {:?}, this dataset has {:?} and {:?}",
                theirs.pairs, theirs.on_missing, ours.pairs, ours.on_missing
            )));
        }
        // A commit is the same whoever serves it.
        let is_one_server = theirs.endpoints == ours.endpoints || sources.iter().all(|source| source.is_pinned());
        if theirs.places == ours.places && is_one_server {
            return Ok(manifest);
        }
    }
    let made_of = theirs.as_ref().map_or_else(
        || "it does not say what it was made of".to_owned(),
        |theirs| format!("it was made of {}", told(theirs)),
    );
    let looking: Vec<_> = looked_at(&manifest)?
        .into_iter()
        .map(|(field, listed)| {
            let (source, on_changed) = (sources[field.min(sources.len() - 1)].clone(), config.on_changed);
            async move { Ok((field, look(source.as_ref(), &listed, on_changed, engine.buffers()).await?)) }
        })
        .collect();
    let found: Result<Vec<(usize, Found)>> =
        engine.block_on("comparing with the manifest", try_join_all(looking), interrupt)?;
    let found = found.map_err(|error| {
        let words = format!("{made_of}, and whether {} is the same cannot be told", told(&ours));
        failed(error.kind()).because(words).caused_by(error)
    })?;
    if let Some(words) = found.iter().find_map(|(_, found)| found.difference()) {
        return Err(refused(format!("{made_of}, this dataset is at {}: {words}", told(&ours))));
    }
    // One that is the same shows that versions mean something here.
    let has = |field: usize, is_it: fn(&Found) -> bool| found.iter().any(|(of, found)| *of == field && is_it(found));
    let strange = |field: usize| {
        has(field, |found| matches!(found, Found::Unversioned)) && !has(field, |found| matches!(found, Found::Same))
    };
    if (0..manifest.field_names().len()).any(strange) {
        tracing::info!(
            "versions in `{place}` mean nothing here ({made_of}, this dataset is at {}): objects are held to their sizes",
            told(&ours)
        );
    }
    Ok(manifest.keeping_versions(|field| !strange(field)))
}

/// Places in words.
fn told(origin: &Origin) -> String {
    let at = |name: &String| origin.endpoints.get(name).map(|server| format!(" at {server}")).unwrap_or_default();
    let places: Vec<_> = origin.places.iter().map(|(name, uri)| format!("`{uri}`{}", at(name))).collect();
    places.join(", ")
}

/// What an object of a manifest is in the reader's place.
enum Found {
    /// What is listed.
    Same,
    /// The same as far as can be told, with a version that cannot be compared.
    Unversioned,
    /// Something else, in words.
    Other(String),
}

impl Found {
    fn difference(&self) -> Option<&str> {
        match self {
            Self::Other(words) => Some(words),
            Self::Same | Self::Unversioned => None,
        }
    }
}

async fn look(source: &dyn Source, listed: &ObjectMeta, on_changed: OnChanged, buffers: &BufferPool) -> Result<Found> {
    let name = source.uri_of(&listed.key);
    let found = match source.head(&listed.key).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Found::Other(format!("there is no `{name}`")));
        }
        found => found?,
    };
    Ok(if found.size != listed.size {
        Found::Other(format!("`{name}` has {} bytes, not {}", found.size, listed.size))
    } else if check_version(&name, &listed.version, &found.version).is_ok() {
        as_read(source, listed, &found.version, buffers).await?
    } else if on_changed == OnChanged::Error && tell_contents_apart(&listed.version, &found.version) {
        Found::Other(format!(
            "`{name}` is {}, not {}; if it is the same all the same, say on_changed = \"reload\"",
            found.version, listed.version
        ))
    } else {
        Found::Unversioned
    })
}

/// Time and tag cannot be compared, but a server may be asked for what has not changed since that time.
async fn as_read(source: &dyn Source, listed: &ObjectMeta, found: &Version, buffers: &BufferPool) -> Result<Found> {
    if !matches!((&listed.version, found), (Version::Modified(_), Version::ETag(_))) {
        return Ok(Found::Same);
    }
    let request = ReadRequest {
        range: Some(0..listed.size.min(1)),
        version: listed.version.clone(),
        size: Some(listed.size),
        ..ReadRequest::whole(&*listed.key)
    };
    match source.read(&request, buffers).await {
        Ok(_) => Ok(Found::Same),
        Err(error) if matches!(error.kind(), ErrorKind::Changed | ErrorKind::Unsupported) => Ok(Found::Unversioned),
        Err(error) => Err(error),
    }
}

/// First, middle and last object of each field.
fn looked_at(manifest: &Manifest) -> Result<Vec<(usize, ObjectMeta)>> {
    let last = manifest.len().saturating_sub(1);
    let mut samples = vec![0, last / 2, last];
    samples.dedup();
    samples.retain(|&sample| sample < manifest.len());
    let fields = 0..manifest.field_names().len();
    fields
        .flat_map(|field| samples.iter().map(move |&sample| (field, sample)))
        .map(|(field, sample)| Ok((field, manifest.object(sample, field)?)))
        .collect()
}
