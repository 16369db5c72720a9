//! Whole listings, page after page.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, FuturesUnordered, StreamExt};
use xxhash_rust::xxh3::xxh3_64;

use super::{ObjectMeta, Page, Source};
use crate::error::{Error, ErrorKind, Result};

/// Pages that are asked for at once, where one does not depend on the other: folders of a disk or of an index.
const PAGES_AT_ONCE: usize = 16;
/// Objects that are looked at at once, where pages do not tell their sizes.
const HEADS_AT_ONCE: usize = 64;
/// Such objects make a page when there are so many.
const HEADS_PER_PAGE: usize = 256;

/// One page of a listing.
#[derive(Debug, Default)]
pub struct Listed {
    /// Objects, in any order.
    pub objects: Page,
    /// Keys of further ones, whose sizes and versions the page does not tell: [`list()`] looks at each.
    pub untold: Vec<String>,
    /// What further pages are asked for with: the next one, or those of folders below.
    pub next: Vec<String>,
    /// Objects that were left out because their keys name nothing, or not one thing alone.
    pub passed_over: u64,
}

/// Lists every object whose key starts with the folder `prefix` (empty for all), recursively, in pages of any order. The first
/// error ends it.
pub fn list<'a>(source: &'a dyn Source, prefix: &'a str) -> BoxStream<'a, Result<Page>> {
    list_wanted(source, prefix, |_| true, &UNCOUNTED)
}

static UNCOUNTED: AtomicU64 = AtomicU64::new(0);

/// The same of objects whose key `wanted` accepts; the others are counted in `left_out`, and cost no request of their own.
pub fn list_wanted<'a>(
    source: &'a dyn Source,
    prefix: &'a str,
    wanted: impl Fn(&str) -> bool + Send + Sync + 'a,
    left_out: &'a AtomicU64,
) -> BoxStream<'a, Result<Page>> {
    let walk = Walk {
        source,
        prefix,
        wanted: Box::new(wanted),
        left_out,
        pages: vec![None],
        keys: Vec::new(),
        asked: FuturesUnordered::new(),
        pages_asked: 0,
        looked_at: Page::new(),
        passed_over: 0,
        tokens: HashSet::new(),
    };
    stream::unfold(Some(walk), |walk| async { walk?.step().await }).boxed()
}

/// Lists everything below `prefix` whose key `wanted` accepts, sorted by key (bytewise).
///
/// # Errors
/// The first one of [`list()`].
pub async fn list_sorted(
    source: &dyn Source,
    prefix: &str,
    wanted: impl Fn(&str) -> bool + Send + Sync,
) -> Result<Page> {
    let mut objects: Vec<ObjectMeta> = Vec::new();
    let mut pages = list_wanted(source, prefix, wanted, &UNCOUNTED);
    while let Some(page) = pages.next().await {
        objects.extend(page?);
    }
    drop(pages);
    objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(objects)
}

/// A listing under way.
struct Walk<'a> {
    source: &'a dyn Source,
    prefix: &'a str,
    wanted: Box<dyn Fn(&str) -> bool + Send + Sync + 'a>,
    left_out: &'a AtomicU64,
    /// Pages to ask for.
    pages: Vec<Option<String>>,
    /// Objects to look at.
    keys: Vec<String>,
    asked: FuturesUnordered<BoxFuture<'a, Result<Answer>>>,
    pages_asked: usize,
    looked_at: Page,
    passed_over: u64,
    /// Hashes of all that pages were asked for with: listings of servers that lie go round in circles.
    tokens: HashSet<u64>,
}

enum Answer {
    Page(Listed),
    /// What a listing names may be gone by now.
    Object(Option<ObjectMeta>),
}

impl Walk<'_> {
    async fn step(mut self) -> Option<(Result<Page>, Option<Self>)> {
        loop {
            self.ask();
            match self.asked.next().await {
                Some(Ok(Answer::Page(listed))) => {
                    let page = self.page(listed);
                    let rest = page.is_ok().then_some(self);
                    return Some((page, rest));
                }
                Some(Ok(Answer::Object(found))) => {
                    self.looked_at.extend(found);
                    if self.looked_at.len() >= HEADS_PER_PAGE {
                        return Some((Ok(std::mem::take(&mut self.looked_at)), Some(self)));
                    }
                }
                Some(Err(error)) => return Some((Err(error), None)),
                None if !self.looked_at.is_empty() => {
                    return Some((Ok(std::mem::take(&mut self.looked_at)), Some(self)));
                }
                None => {
                    self.tell();
                    return None;
                }
            }
        }
    }

    /// Objects first: they are what waits for a turn, and pages bring more of them.
    fn ask(&mut self) {
        let (source, prefix) = (self.source, self.prefix);
        while self.asked.len() - self.pages_asked < HEADS_AT_ONCE
            && let Some(key) = self.keys.pop()
        {
            self.asked.push(Box::pin(async move {
                match source.head(&key).await {
                    Ok(meta) => Ok(Answer::Object(Some(meta))),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(Answer::Object(None)),
                    Err(error) => Err(error),
                }
            }));
        }
        while self.keys.is_empty()
            && self.pages_asked < PAGES_AT_ONCE
            && let Some(token) = self.pages.pop()
        {
            self.pages_asked += 1;
            self.asked.push(Box::pin(async move { source.page(prefix, token.as_deref()).await.map(Answer::Page) }));
        }
    }

    fn page(&mut self, listed: Listed) -> Result<Page> {
        self.pages_asked -= 1;
        if let Some(token) = listed.next.iter().find(|token| !self.tokens.insert(xxh3_64(token.as_bytes()))) {
            let has_other = self.source.leads_nowhere(token);
            let kind = if has_other { ErrorKind::Changed } else { ErrorKind::Unavailable };
            let error = Error::new(kind, "list", self.source.uri());
            return Err(error.because("the listing goes in a circle: a page says to go on where it went on before"));
        }
        self.pages.extend(listed.next.into_iter().map(Some));
        self.passed_over += listed.passed_over;
        let (mut objects, mut keys) = (listed.objects, listed.untold);
        let told = objects.len() + keys.len();
        objects.retain(|object| (self.wanted)(&object.key));
        keys.retain(|key| (self.wanted)(key));
        self.left_out.fetch_add((told - objects.len() - keys.len()) as u64, Ordering::Relaxed);
        self.keys.append(&mut keys);
        Ok(objects)
    }

    fn tell(&self) {
        if self.passed_over > 0 {
            tracing::warn!(
                "passed over {} objects of `{}`: their keys have an empty, `.` or `..` component, or a control character",
                self.passed_over,
                self.source.uri()
            );
        }
    }
}
