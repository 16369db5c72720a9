//! One dataset, described for another process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::Dataset;
use super::open::assemble;
use crate::clock::Clock;
use crate::config::{self, DatasetConfig, Secrets};
use crate::engine::{Interrupt, PerProcess};
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{Manifest, store};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Pinned {
    version: u32,
    config: String,
    manifest: Option<PathBuf>,
    order_fingerprint: String,
    content_fingerprint: String,
    #[serde(default)]
    has_replicas: bool,
}

pub(super) fn pin(dataset: &Dataset, secrets: Secrets) -> Result<String> {
    let pinned = Pinned {
        version: VERSION,
        config: dataset.inner.config.to_json(secrets)?,
        // Without it the other process lists again.
        manifest: config::home().and_then(|home| store::pin(&home, dataset.manifest()).ok()),
        order_fingerprint: dataset.order_fingerprint().to_owned(),
        content_fingerprint: dataset.content_fingerprint().to_owned(),
        has_replicas: dataset.inner.has_replicas.load(Ordering::Relaxed),
    };
    serde_json::to_string(&pinned).map_err(|cause| Error::new(ErrorKind::Internal, "pin", "dataset").caused_by(cause))
}

pub(super) fn reopen(text: &str, interrupt: Interrupt<'_>) -> Result<Dataset> {
    let pinned: Pinned = serde_json::from_str(text)
        .map_err(|cause| Error::new(ErrorKind::Invalid, "reopen", "pinned dataset").because(cause))?;
    if pinned.version != VERSION {
        return Err(Error::new(ErrorKind::Unsupported, "reopen", "pinned dataset")
            .because(format_args!("it is of version {}, this is version {VERSION}", pinned.version)));
    }
    let dataset = pinned.open(interrupt)?;
    dataset.inner.has_replicas.store(pinned.has_replicas, Ordering::Relaxed);
    if dataset.order_fingerprint() != pinned.order_fingerprint {
        return Err(Error::new(ErrorKind::Changed, "reopen", "pinned dataset").because(format_args!(
            "its samples are not the same any more: order fingerprint {} instead of {}, now {} samples",
            dataset.order_fingerprint(),
            pinned.order_fingerprint,
            dataset.len()
        )));
    }
    Ok(dataset)
}

impl Pinned {
    fn open(&self, interrupt: Interrupt<'_>) -> Result<Dataset> {
        let config = DatasetConfig::from_json(&self.config)?;
        match self.kept_manifest() {
            // Sources are connected on first use: a worker that never reads never asks.
            Some(manifest) => assemble(config, manifest, Arc::default(), PerProcess::new(), Clock::default()),
            None => Dataset::open(&config, interrupt),
        }
    }

    fn kept_manifest(&self) -> Option<Manifest> {
        let manifest = store::load(self.manifest.as_deref()?).ok()?;
        let same = manifest.order_fingerprint() == self.order_fingerprint
            && manifest.content_fingerprint() == self.content_fingerprint;
        same.then_some(manifest)
    }
}
