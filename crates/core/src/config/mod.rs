//! What a dataset and a loader are made of, as serialisable structures.
//!
//! The same [`DatasetConfig`] (and [`LoaderConfig`]) is read from TOML (`headwater.toml`), from JSON (the Python front), or built in Rust. Unknown
//! keys are refused. It is the only place that reads the environment, apart from `world` (launchers) and the credential chains of the clouds.

mod cache;
mod duration;
mod environment;
mod fetch;
mod home;
mod host;
mod loader;
mod on_error;
mod prefetch;
mod replicas;
mod settings;
mod share;
mod size;

use std::fs;
use std::path::Path;
use std::time::Duration;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::manifest::OnMissing;
use crate::source::{self, SourceOptions, SourceSpec};
use crate::words::{in_words, read_json};

pub use cache::{CacheConfig, Compression};
pub use duration::Span;
pub use environment::ENVIRONMENT;
pub use fetch::{FetchConfig, ThrottleConfig, Verify};
pub use home::home;
pub use host::memory_limit;
pub use loader::LoaderConfig;
pub use on_error::OnError;
pub use prefetch::PrefetchConfig;
pub use replicas::Replicas;
pub use settings::{Kind, Setting, Table, tables};
pub use share::MemoryShare;
pub use size::ByteSize;

/// What to do when an object is no longer the version that the manifest lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnChanged {
    /// Fail that sample with `Changed`.
    #[default]
    Error,
    /// Read the object as it is now.
    Reload,
}

/// Whether a serialised configuration may contain credentials that were given explicitly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// Write them out. Only for handing them to a child process.
    Include,
    /// Fail if there are any.
    Refuse,
}

/// What a dataset is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatasetConfig {
    /// Field name to source, or to replicas in order of preference. Exclusive with `source`.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub fields: IndexMap<String, Replicas>,
    /// One source whose sub-folders are the fields or, when it has none, that is the only, unnamed field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Replicas>,
    /// Options by field name or by URI scheme; the field's come first, then the scheme's. A source's own come before both.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub storage_options: IndexMap<String, SourceOptions>,
    /// Field name to the pattern of its file names, with one `*` for the sample's key. Default: `*`.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub pairs: IndexMap<String, String>,
    /// Whether the patterns of fields that have none in `pairs` are found out from the names that there are, such as `latent_*` and
    /// `condition_*`. Default: no.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub guess_pairs: bool,
    /// Whether latents that were kept patchified, `[seq, C]` with `num_frames`, `height` and `width` beside them, are handed out as
    /// `[C, F, H, W]`. Default: no.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restore_latents: bool,
    /// Field name to what it is called in samples, where that is another name. Default: the field's own.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub rename: IndexMap<String, String>,
    /// When a sample lacks a field's object. Default: `error`.
    pub on_missing: OnMissing,
    /// When an object is not the listed version any more. Default: `error`.
    pub on_changed: OnChanged,
    /// When a sample of a batch cannot be read or decoded. Default: `raise`.
    pub on_error: OnError,
    /// How old a kept manifest of a remote dataset may be to be used without listing; local ones are always listed.
    /// Default: one hour. Raise it when the data does not change and listing takes long.
    pub manifest_max_age: Span,
    /// A published manifest to open the dataset by, instead of listing: a path or URI of a file, which is made where it is not
    /// there, or `published` for the one beside the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Another process lists and publishes: wait for its manifest. For all ranks but the first.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
    /// How long to wait for a manifest that another process makes. Default: ten minutes.
    pub manifest_timeout: Span,
    /// What is kept of what was read.
    pub cache: CacheConfig,
    /// How samples are fetched that the user asks for ahead of their use.
    pub prefetch: PrefetchConfig,
    /// How sources are asked.
    pub fetch: FetchConfig,
    /// How a loader walks the dataset; what [`crate::loader::Loader::open`] uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loader: Option<LoaderConfig>,
}

impl Default for DatasetConfig {
    fn default() -> Self {
        Self {
            fields: IndexMap::new(),
            source: None,
            storage_options: IndexMap::new(),
            pairs: IndexMap::new(),
            guess_pairs: false,
            restore_latents: false,
            rename: IndexMap::new(),
            on_missing: OnMissing::default(),
            on_changed: OnChanged::default(),
            on_error: OnError::default(),
            manifest_max_age: Span(Duration::from_hours(1)),
            manifest: None,
            follow: false,
            manifest_timeout: Span(Duration::from_mins(10)),
            cache: CacheConfig::default(),
            prefetch: PrefetchConfig::default(),
            fetch: FetchConfig::default(),
            loader: None,
        }
    }
}

impl DatasetConfig {
    /// Reads JSON.
    ///
    /// # Errors
    /// `Invalid`, naming the key.
    pub fn from_json(text: &str) -> Result<Self> {
        from_json::<Self>(text)?.checked()
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// `Invalid`, naming the key and line.
    pub fn from_toml(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|cause| invalid("TOML", &in_words(cause.message())))?;
        if let OnError::Ask(_) = config.on_error {
            return Err(invalid(
                "TOML",
                &"`on_error` must be `raise`, `skip` or `substitute`: a file has no functions",
            ));
        }
        config.checked()
    }

    /// Reads a TOML file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// `NotFound`, `Io`, `Invalid`.
    #[allow(clippy::disallowed_methods)] // a configuration is a file
    pub fn from_toml_file(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|cause| Error::io("read configuration", path.display(), cause))?;
        let mut config = Self::from_toml(&text)
            .map_err(|cause| Error::new(cause.kind(), "use configuration", path.display()).caused_by(cause))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for spec in config.specs_mut() {
            if let Some(path) = source::local_path(&spec.uri)?.filter(|path| path.is_relative()) {
                spec.uri = folder.join(path).to_string_lossy().into_owned();
            }
        }
        if let Some(place) = &mut config.cache.disk {
            *place = folder.join(&*place);
        }
        if let Some(place) = config.manifest.as_mut().filter(|place| *place != "published")
            && let Some(path) = source::local_path(place)?.filter(|path| path.is_relative())
        {
            *place = folder.join(path).to_string_lossy().into_owned();
        }
        Ok(config)
    }

    /// Writes JSON that [`DatasetConfig::from_json`] reads.
    ///
    /// # Errors
    /// `Invalid` when there are explicit credentials and they are refused.
    pub fn to_json(&self, secrets: Secrets) -> Result<String> {
        let explicit = |options: &SourceOptions| options.has_secrets();
        let has_secrets = self.storage_options.values().any(explicit)
            || self.fields.values().chain(&self.source).flat_map(|replicas| &replicas.0).any(SourceSpec::has_secrets)
            || self.manifest.as_deref().is_some_and(|place| SourceSpec::from(place).has_secrets());
        if has_secrets && secrets == Secrets::Refuse {
            return Err(Error::new(ErrorKind::Invalid, "serialise", "this dataset's configuration").because(
                "it holds explicit credentials, which are never written out; use the standard chains instead \
                 (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, web identity, instance metadata)",
            ));
        }
        serde_json::to_string(self).map_err(|cause| invalid("JSON", &cause))
    }

    /// The same with every local path absolute, so that it means the same wherever it is used.
    ///
    /// # Errors
    /// `Invalid` for a URI that cannot be meant.
    pub fn with_absolute_paths(mut self) -> Result<Self> {
        for spec in self.specs_mut() {
            let Some(path) = source::local_path(&spec.uri)? else { continue };
            let absolute = std::path::absolute(&path).map_err(|cause| Error::io("use path", path.display(), cause))?;
            // What is no UTF-8 was no path of a configuration.
            spec.uri = absolute.to_string_lossy().into_owned();
        }
        if let Some(folder) = &mut self.cache.disk {
            let absolute = std::path::absolute(&*folder);
            *folder = absolute.map_err(|cause| Error::io("use path", folder.display(), cause))?;
        }
        if let Some(place) = self.manifest.as_mut().filter(|place| *place != "published")
            && let Some(path) = source::local_path(place)?
        {
            let absolute = std::path::absolute(&path).map_err(|cause| Error::io("use path", path.display(), cause))?;
            *place = absolute.to_string_lossy().into_owned();
        }
        Ok(self)
    }

    /// The sources themselves, in the order of [`DatasetConfig::sources`].
    pub(crate) fn specs_mut(&mut self) -> impl Iterator<Item = &mut SourceSpec> {
        self.fields.values_mut().chain(&mut self.source).flat_map(|replicas| &mut replicas.0)
    }

    /// The replicas of every field, in order, with their options filled up from `storage_options`. The name is empty for
    /// `source`.
    pub fn sources(&self) -> Vec<(String, Vec<SourceSpec>)> {
        let named = self.fields.iter().map(|(name, replicas)| (name.as_str(), replicas));
        named
            .chain(self.source.iter().map(|replicas| ("", replicas)))
            .map(|(name, replicas)| {
                (name.to_owned(), replicas.0.iter().map(|spec| self.with_defaults(name, spec)).collect())
            })
            .collect()
    }

    /// As a rank opens it: where a manifest is to be made, all but the first wait for it.
    #[must_use]
    pub fn of_rank(self, rank: usize) -> Self {
        let follow = self.follow || rank > 0 && self.manifest.as_deref().is_some_and(|place| place != "published");
        Self { follow, ..self }
    }

    /// A source with its options filled up from `storage_options` by its field's name and its scheme.
    pub fn with_defaults(&self, name: &str, spec: &SourceSpec) -> SourceSpec {
        let scheme = spec.uri.split_once(':').map_or("file", |(scheme, _)| scheme);
        let mut options = spec.options.clone();
        for defaults in [self.storage_options.get(name), self.storage_options.get(scheme)].into_iter().flatten() {
            options = options.merged(defaults);
        }
        SourceSpec { uri: spec.uri.clone(), options }
    }

    fn checked(self) -> Result<Self> {
        let wrong = |subject: &str, reason: &str| Err(Error::new(ErrorKind::Invalid, "use", subject).because(reason));
        if self.fields.is_empty() == self.source.is_none() {
            return wrong("configuration", "give either `fields`, each with its source, or one `source`");
        }
        if self.follow && self.manifest.is_none() {
            return wrong("follow", "say where the other process publishes its `manifest`");
        }
        if self.cache.disk.as_ref().is_some_and(|place| place.as_os_str().is_empty()) {
            return wrong("cache.disk", "it is empty; give a folder");
        }
        if let Some(name) = self.fields.keys().find(|name| name.is_empty() || name.starts_with("__")) {
            return wrong(name, "a field needs a name that does not begin with two underscores");
        }
        for pattern in self.pairs.values() {
            crate::manifest::KeyPattern::parse(pattern)?;
        }
        let is_known = |name: &str| self.fields.contains_key(name) || source::schemes().any(|scheme| scheme == name);
        if let Some(name) = self.storage_options.keys().find(|name| !is_known(name)) {
            let schemes = source::schemes().collect::<Vec<_>>().join("`, `");
            return wrong(name, &format!("`storage_options` are by field or by scheme, which are `{schemes}`"));
        }
        for (what, names) in [("pairs", &self.pairs), ("rename", &self.rename)] {
            let unknown = names.keys().find(|&name| !self.fields.contains_key(name));
            if let (Some(name), None) = (unknown, &self.source) {
                return wrong(name, &format!("`{what}` names a field that is not there"));
            }
        }
        if let Some(name) = self.rename.values().find(|name| name.is_empty() || name.starts_with("__")) {
            return wrong(name, "a field needs a name that does not begin with two underscores");
        }
        Ok(self)
    }
}

/// Reads JSON; an error names the setting by its path rather than by its column.
fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    read_json(text).map_err(|(path, words)| {
        let setting = if path == "." { "configuration" } else { &*path };
        Error::new(ErrorKind::Invalid, "use", setting).because(words)
    })
}

fn invalid(format: &str, reason: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, "read", format_args!("{format} configuration")).because(reason)
}

#[cfg(test)]
mod tests;
