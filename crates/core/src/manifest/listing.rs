//! What one source holds, in few bytes per object.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;

use super::strings::Strings;
use super::versions::Versions;
use crate::error::{ErrorKind, Result};
use crate::source::{ObjectMeta, Source, list_wanted};

/// Listings that cannot go on are begun anew, so often in all.
const BEGINNINGS: usize = 3;

/// The objects of one source that some decoder reads, and how many others there were.
#[derive(Debug, Default)]
pub struct Listing {
    pub(super) keys: Strings,
    pub(super) sizes: Vec<u64>,
    pub(super) versions: Versions,
    /// Objects that no decoder reads, or whose name begins with a dot.
    pub ignored: u64,
}

impl Listing {
    /// Lists everything `readable` below the root of a source. Pages are packed as they arrive, and
    /// `listed` counts their objects.
    ///
    /// # Errors
    /// Those of the source.
    pub async fn collect(source: &dyn Source, readable: fn(&str) -> bool, listed: &AtomicU64) -> Result<Self> {
        for _ in 1..BEGINNINGS {
            match Self::begin(source, readable, listed).await {
                Err(error) if error.kind() == ErrorKind::Changed => {
                    tracing::warn!("listing anew: {}", error.report());
                }
                done => return done,
            }
        }
        Self::begin(source, readable, listed).await
    }

    /// Objects of a listing that fails are counted no longer.
    async fn begin(source: &dyn Source, readable: fn(&str) -> bool, listed: &AtomicU64) -> Result<Self> {
        let mut listing = Self::default();
        let left_out = AtomicU64::new(0);
        let mut pages = list_wanted(source, "", |key| readable(key) && !is_hidden(key), &left_out);
        while let Some(page) = pages.next().await {
            let page = page.inspect_err(|_| {
                listed.fetch_sub(listing.len() as u64, Ordering::Relaxed);
            })?;
            listed.fetch_add(page.len() as u64, Ordering::Relaxed);
            page.iter().for_each(|object| listing.push(object));
        }
        drop(pages);
        listing.ignored = left_out.into_inner();
        Ok(listing)
    }

    fn push(&mut self, object: &ObjectMeta) {
        self.keys.push(&object.key);
        self.sizes.push(object.size);
        self.versions.push(&object.version);
    }

    /// Number of readable objects.
    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    /// Whether there is no readable object.
    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// Object keys, in the order the source gave them.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter()
    }
}

impl FromIterator<ObjectMeta> for Listing {
    fn from_iter<I: IntoIterator<Item = ObjectMeta>>(objects: I) -> Self {
        let mut listing = Self::default();
        objects.into_iter().for_each(|object| listing.push(&object));
        listing
    }
}

/// Tools leave `._x.pt` and `.ipynb_checkpoints/x.pt` behind; nobody means those.
fn is_hidden(key: &str) -> bool {
    key.split('/').any(|part| part.starts_with('.'))
}
