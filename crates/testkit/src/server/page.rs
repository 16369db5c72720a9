//! A page of a listing, in time proportional to the page and not to what is stored.

use std::ops::Bound;

use super::object::Object;
use super::store::Map;

/// What a listing names.
pub(super) enum Entry<'a> {
    Object(&'a str, &'a Object),
    /// Everything below a folder, whose name ends in `/`.
    Folder(&'a str),
}

impl Entry<'_> {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Object(name, _) | Self::Folder(name) => name,
        }
    }
}

/// A part of what lies below a prefix.
pub(super) struct Page<'a> {
    pub(super) entries: Vec<Entry<'a>>,
    /// Whether there is something after it.
    pub(super) more: bool,
}

impl Page<'_> {
    /// What a client says to get the next page.
    pub(super) fn next(&self) -> Option<&str> {
        self.entries.last().filter(|_| self.more).map(Entry::name)
    }
}

/// At most so many entries below a prefix and after a name; folded, one entry stands for all that is below a folder.
pub(super) fn page<'a>(objects: &'a Map, prefix: &str, after: &str, folded: bool, most: usize) -> Page<'a> {
    let mut page = Page { entries: Vec::with_capacity(most.min(1000)), more: false };
    let mut from = match after {
        folder if folded && folder.ends_with('/') && folder > prefix => Bound::Included(beyond(folder)),
        name if name >= prefix => Bound::Excluded(name.to_owned()),
        _ => Bound::Included(prefix.to_owned()),
    };
    loop {
        let mut jump = None;
        for (key, object) in objects.range::<str, _>((from.as_ref().map(String::as_str), Bound::Unbounded)) {
            if !key.starts_with(prefix) {
                return page;
            }
            if page.entries.len() == most {
                page.more = true;
                return page;
            }
            if folded && let Some(slash) = key[prefix.len()..].find('/') {
                let folder = &key[..=prefix.len() + slash];
                page.entries.push(Entry::Folder(folder));
                jump = Some(beyond(folder));
                break;
            }
            page.entries.push(Entry::Object(key, object));
        }
        match jump {
            Some(next) => from = Bound::Included(next),
            None => return page,
        }
    }
}

/// The first name after all that are below a folder.
fn beyond(folder: &str) -> String {
    format!("{}0", folder.strip_suffix('/').unwrap_or(folder)) // `0` follows `/`
}
