//! Whole listings, page after page.

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, FuturesUnordered, StreamExt};

use super::{ObjectMeta, Page, Source};
use crate::error::Result;

/// Pages that are asked for at once, where one does not depend on the other: folders of a disk or of an index.
const PAGES_AT_ONCE: usize = 16;

/// One page of a listing.
#[derive(Debug, Default)]
pub struct Listed {
    /// Objects, in any order.
    pub objects: Page,
    /// What further pages are asked for with: the next one, or those of folders below.
    pub next: Vec<String>,
    /// Objects that were left out because their keys name nothing, or not one thing alone.
    pub passed_over: u64,
}

type Asked<'a> = FuturesUnordered<BoxFuture<'a, Result<Listed>>>;

struct Walk<'a> {
    source: &'a dyn Source,
    prefix: &'a str,
    waiting: Vec<Option<String>>,
    asked: Asked<'a>,
    passed_over: u64,
}

/// Lists every object whose key starts with the folder `prefix` (empty for all), recursively, in pages of any order. The first
/// error ends it.
pub fn list<'a>(source: &'a dyn Source, prefix: &'a str) -> BoxStream<'a, Result<Page>> {
    let walk = Walk { source, prefix, waiting: vec![None], asked: FuturesUnordered::new(), passed_over: 0 };
    stream::unfold(Some(walk), |walk| async { walk?.step().await }).boxed()
}

impl Walk<'_> {
    async fn step(mut self) -> Option<(Result<Page>, Option<Self>)> {
        while self.asked.len() < PAGES_AT_ONCE
            && let Some(token) = self.waiting.pop()
        {
            let (source, prefix) = (self.source, self.prefix);
            self.asked.push(Box::pin(async move { source.page(prefix, token.as_deref()).await }));
        }
        match self.asked.next().await {
            Some(Ok(listed)) => {
                self.waiting.extend(listed.next.into_iter().map(Some));
                self.passed_over += listed.passed_over;
                Some((Ok(listed.objects), Some(self)))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None => {
                if self.passed_over > 0 {
                    tracing::warn!(
                        "passed over {} objects of `{}`: their keys have an empty, `.` or `..` component, or a control character",
                        self.passed_over,
                        self.source.uri()
                    );
                }
                None
            }
        }
    }
}

/// Lists everything below `prefix` whose key `wanted` accepts, sorted by key (bytewise).
///
/// # Errors
/// The first one of [`list()`].
pub async fn list_sorted(source: &dyn Source, prefix: &str, wanted: impl Fn(&str) -> bool) -> Result<Page> {
    let mut objects: Vec<ObjectMeta> = Vec::new();
    let mut pages = list(source, prefix);
    while let Some(page) = pages.next().await {
        objects.extend(page?.into_iter().filter(|object| wanted(&object.key)));
    }
    objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(objects)
}
