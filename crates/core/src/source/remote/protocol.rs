//! What a kind of remote has to say: how it is asked and how its answers are read.

use std::fmt::Debug;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method};

use super::{Digest, Missing, Place, text};
use crate::error::Result;
use crate::source::{ObjectMeta, Version, check_key};

/// How one kind of remote is spoken to.
#[async_trait]
pub(in crate::source) trait Protocol: Debug + Send + Sync + 'static {
    /// How it is reached, for messages.
    fn place(&self) -> &Place;

    /// Asks for a page of a listing.
    fn page(&self, asked: &Asked<'_>) -> Result<Parts>;

    /// Reads a page. What it says is not believed to be a page at all.
    fn parse(&self, asked: &Asked<'_>, answer: &Answer) -> Result<Parsed, String>;

    /// Asks for an object's bytes, or with HEAD for what is known of them.
    fn object(&self, method: Method, key: &str) -> Result<Parts>;

    /// Writes an object, where that can be.
    fn put(&self, key: &str) -> Option<Result<Parts>> {
        let _ = key;
        None
    }

    /// Has the server refuse other versions.
    fn expect(&self, request: &mut Parts, version: &Version);

    /// Asks for the object's checksum, for a read of the whole.
    fn ask_for_digest(&self, request: &mut Parts) {
        let _ = request;
    }

    /// The version that an answer is of.
    fn version(&self, headers: &HeaderMap) -> Version;

    /// The object's checksum, if the answer names a cheap one.
    fn digest(&self, headers: &HeaderMap) -> Option<Digest> {
        let _ = headers;
        None
    }

    /// Signs a request. When the credentials were given that it is signed with, if there can be others.
    ///
    /// # Errors
    /// Why there are no credentials.
    async fn authorize(&self, request: &mut Parts) -> Result<Option<Instant>, Missing>;

    /// Forgets credentials that were given then: they were refused as expired.
    fn renew(&self, given: Instant) {
        let _ = given;
    }

    /// Which credentials are used, in words and without them.
    fn credentials(&self) -> String;

    /// Whether answers may point elsewhere.
    fn follows_redirects(&self) -> bool {
        false
    }

    /// Whether a listing is one of folders, each by itself, however many there are.
    fn lists_by_folder(&self) -> bool {
        false
    }

    /// Whether a listing may begin after a key.
    fn can_begin_after(&self) -> bool {
        false
    }

    /// Whether every answer for an object has a version, so that one without is not from the store.
    fn always_has_versions(&self) -> bool {
        true
    }

    /// Whether what lies there cannot change.
    fn is_pinned(&self) -> bool {
        false
    }

    /// Code and words of an answer that is no success.
    fn reason(&self, headers: &HeaderMap, body: &[u8]) -> (Option<String>, Option<String>) {
        let _ = headers;
        text::xml_reason(body)
    }
}

/// Which page of a listing is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::source) struct Asked<'a> {
    /// Folder: empty, or ending in a slash.
    pub(in crate::source) folder: &'a str,
    /// Only what lies directly in the folder, and the folders there; else everything below it.
    pub(in crate::source) is_shallow: bool,
    /// Only keys after this one.
    pub(in crate::source) after: Option<&'a str>,
    /// What an earlier page gave to go on with.
    pub(in crate::source) token: Option<&'a str>,
    /// Objects, at most.
    pub(in crate::source) max: Option<usize>,
}

/// An answer that was read whole.
#[derive(Debug)]
pub(in crate::source) struct Answer {
    /// Where it came from, after redirects.
    pub(in crate::source) url: url::Url,
    pub(in crate::source) headers: HeaderMap,
    pub(in crate::source) body: Bytes,
}

/// What a page of a listing says.
#[derive(Debug, Default)]
pub(in crate::source) struct Parsed {
    pub(super) objects: Vec<ObjectMeta>,
    pub(super) passed_over: u64,
    /// What the next page is asked for with.
    pub(super) next: Option<String>,
    /// Folders that are not part of the page, each ending in a slash.
    pub(super) folders: Vec<String>,
    /// Keys whose sizes the page does not tell.
    pub(super) untold: Vec<String>,
}

impl Parsed {
    /// Nothing yet but how to go on.
    pub(in crate::source) fn with_next(next: Option<String>) -> Self {
        Self { next, ..Self::default() }
    }

    /// Adds an object by its key below the source, unless that is no key.
    pub(in crate::source) fn add(&mut self, key: &str, size: Option<u64>, version: Version) {
        if key.is_empty() || key.ends_with('/') && !key.contains("//") {
            // The mark that some tools leave for a folder.
        } else if !is_nameable(key) {
            self.passed_over += 1;
        } else if let Some(size) = size {
            self.objects.push(ObjectMeta { key: key.to_owned(), size, version });
        } else {
            self.untold.push(key.to_owned());
        }
    }

    /// Adds a folder whose objects are not on this page.
    pub(in crate::source) fn add_folder(&mut self, key: String) {
        if is_nameable(key.trim_end_matches('/')) {
            self.folders.push(key);
        } else {
            self.passed_over += 1;
        }
    }
}

/// Whether a key names one object in one way, to us and to every server.
fn is_nameable(key: &str) -> bool {
    check_key("", key).is_ok() && !key.chars().any(char::is_control)
}
