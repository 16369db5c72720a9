//! The Hugging Face Hub with one dataset: descriptions, listings, small files, and large ones by redirection.
//!
//! Large files are on another host, as they really are: `localhost` for who came by `127.0.0.1`, and the other way round. That
//! host is told who may read by the address it was sent to; whoever sends it a token gave that token away, so it refuses and
//! counts that. A commit goes on being readable after something changed.

use std::sync::Arc;

use hyper::header::{AUTHORIZATION, ETAG, LOCATION, RANGE};
use hyper::{Method, StatusCode};
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use super::State;
use super::answer::{self, Answer, code_of, name, xml};
use super::counters::Class;
use super::hub_tree;
use super::object::Object;
use super::protocol::{Asked, Call, Problem, Protocol};
use super::store::{Commit, Store};

pub(super) struct Hub;

/// The dataset that everybody may read. Whoever has [`TOKEN`] may read `private/bucket` too, which is the same.
pub const DATASET: &str = "headwater/bucket";
/// The token that opens private datasets.
pub const TOKEN: &str = "hf_test_token";
/// The size from which files are kept as large ones.
const LARGE_BYTES: usize = 1024;
const API: &str = "/api/datasets/";
const FILES: &str = "/datasets/";
const CDN: &str = "/cdn/";

/// A request in the Hub's words.
enum Place<'a> {
    /// The whole dataset.
    Dataset,
    /// The files below a folder.
    Tree(&'a str),
    /// Files that the body names.
    Paths,
    File(&'a str),
    /// A large file, on the other host.
    Cdn(&'a str),
    Unknown,
}

struct Named<'a> {
    dataset: &'a str,
    revision: &'a str,
    place: Place<'a>,
}

impl<'a> Named<'a> {
    fn read(path: &'a str) -> Self {
        let unknown = Self { dataset: "", revision: "", place: Place::Unknown };
        if let Some(rest) = path.strip_prefix(CDN) {
            let (revision, key) = rest.split_once('/').unwrap_or((rest, ""));
            return Self { dataset: DATASET, revision, place: Place::Cdn(key) };
        }
        let Some(rest) = path.strip_prefix(API).or_else(|| path.strip_prefix(FILES)) else { return unknown };
        let slash = rest
            .find('/')
            .map_or(rest.len(), |org| rest[org + 1..].find('/').map_or(rest.len(), |more| org + 1 + more));
        let (dataset, rest) = rest.split_at(slash);
        let (kind, rest) = rest.strip_prefix('/').unwrap_or_default().split_once('/').unwrap_or_default();
        let (revision, below) = rest.split_once('/').unwrap_or((rest, ""));
        let place = match (path.starts_with(API), kind) {
            (true, "") => return Self { dataset, revision: "main", place: Place::Dataset },
            (true, "revision") => Place::Dataset,
            (true, "tree") => Place::Tree(below),
            (true, "paths-info") => Place::Paths,
            (false, "resolve") => Place::File(below),
            _ => Place::Unknown,
        };
        Self { dataset, revision, place }
    }

    fn key(&self) -> &'a str {
        match self.place {
            Place::Tree(key) | Place::File(key) | Place::Cdn(key) => key,
            _ => "",
        }
    }
}

/// Whether a file is kept as a large one.
pub(super) fn is_large(key: &str, object: &Object) -> bool {
    object.bytes.len() >= LARGE_BYTES || key.strip_suffix(".lfs").is_some()
}

impl Protocol for Hub {
    fn owns(&self, path: &str) -> bool {
        [API, FILES, CDN].iter().any(|root| path.starts_with(root))
    }

    fn call<'a>(&self, store: &Store, asked: &'a Asked<'a>) -> Call<'a> {
        let named = Named::read(asked.path);
        let key = named.key();
        match named.place {
            Place::Tree(_) | Place::Paths => Call::of(Class::List, key),
            Place::File(_) | Place::Cdn(_) => {
                let object = store.commit(named.revision).and_then(|commit| commit.objects.get(key).cloned());
                let redirects = matches!(named.place, Place::File(_))
                    && object.as_ref().is_some_and(|object| is_large(key, object));
                let call = Call::about(&asked.parts.method, key, object, asked.header(RANGE));
                Call { carries: call.carries && !redirects, ..call }
            }
            Place::Dataset | Place::Unknown => Call::of(Class::Other, key),
        }
    }

    fn answer(&self, state: &State, asked: &Asked<'_>, call: &Call<'_>) -> Answer {
        let named = Named::read(asked.path);
        if let Place::Cdn(_) = named.place {
            return self.cdn(state, asked, call);
        }
        let authorized = asked.header(AUTHORIZATION).is_some_and(|given| given.strip_prefix("Bearer ") == Some(TOKEN));
        match named.dataset.split_once('/') {
            Some((_, "bucket")) if !named.dataset.starts_with("private/") || authorized => {}
            Some(("private", _)) if !authorized => {
                return failure(StatusCode::UNAUTHORIZED, "RepoNotFound", "Invalid username or password.");
            }
            _ => return failure(StatusCode::NOT_FOUND, "RepoNotFound", "Repository not found"),
        }
        let Some(commit) = state.store.commit(named.revision) else {
            let message = format!("Invalid rev id: {}", named.revision);
            return failure(StatusCode::NOT_FOUND, "RevisionNotFound", &message);
        };
        match (&asked.parts.method, &named.place) {
            (&Method::GET | &Method::HEAD, Place::Dataset) => hub_tree::dataset(named.dataset, &commit),
            (&Method::GET | &Method::HEAD, Place::Tree(folder)) => {
                hub_tree::tree(state, asked, &commit.objects, folder)
                    .unwrap_or_else(|| failure(StatusCode::NOT_FOUND, "EntryNotFound", "Entry not found"))
            }
            (&Method::POST, Place::Paths) => hub_tree::paths(&commit.objects, &asked.body),
            (&Method::GET | &Method::HEAD, Place::File(_)) => self.file(asked, call, &commit),
            _ => self.failure(asked, Problem::BadMethod),
        }
    }

    fn failure(&self, asked: &Asked<'_>, problem: Problem) -> Answer {
        let (status, code) = match problem {
            Problem::Missing => (StatusCode::NOT_FOUND, "EntryNotFound"),
            Problem::Denied => (StatusCode::FORBIDDEN, "GatedRepo"),
            Problem::Expired if asked.path.starts_with(CDN) => (StatusCode::FORBIDDEN, "AccessDenied"),
            Problem::Expired => (StatusCode::UNAUTHORIZED, ""),
            Problem::Changed => (StatusCode::PRECONDITION_FAILED, ""),
            Problem::BadRange => (StatusCode::RANGE_NOT_SATISFIABLE, ""),
            Problem::BadMethod => (StatusCode::METHOD_NOT_ALLOWED, ""),
            Problem::Status(status) => (status, ""),
        };
        if asked.path.starts_with(CDN) {
            return refusal(status, if code.is_empty() { code_of(status) } else { code.to_owned() }.as_str());
        }
        failure(status, code, status.canonical_reason().unwrap_or("Error"))
    }
}

impl Hub {
    /// A small file, or where a large one is.
    fn file(&self, asked: &Asked<'_>, call: &Call<'_>, commit: &Arc<Commit>) -> Answer {
        let Some(object) = &call.object else {
            let missing = self.failure(asked, Problem::Missing);
            return answer::with(missing, name("x-repo-commit"), &*commit.id);
        };
        let answer = if is_large(call.key, object) {
            let host = asked.host();
            let other = match host.strip_prefix("localhost") {
                Some(port) => format!("127.0.0.1{port}"),
                None => format!("localhost{}", &host[host.find(':').unwrap_or(host.len())..]),
            };
            // The path as the client escaped it, after the revision it named.
            let escaped = asked.parts.uri.path().splitn(7, '/').nth(6).unwrap_or_default();
            let place = format!("http://{other}{CDN}{}/{escaped}?sig={}", commit.id, signature(call.key));
            let tag = format!("\"{}\"", object.sha256());
            let moved = answer::with(answer::empty(StatusCode::FOUND), LOCATION, place);
            let moved = answer::with(moved, name("x-linked-size"), object.bytes.len());
            answer::with(answer::with(moved, name("x-linked-etag"), &*tag), ETAG, tag)
        } else {
            let part = self.part(asked, call, object);
            if part.status().is_success() { answer::with(part, ETAG, format!("\"{}\"", object.blob())) } else { part }
        };
        answer::with(answer, name("x-repo-commit"), &*commit.id)
    }

    /// The other host: it knows addresses, not people.
    fn cdn(&self, state: &State, asked: &Asked<'_>, call: &Call<'_>) -> Answer {
        if asked.header(AUTHORIZATION).is_some() {
            state.counters.leak();
            return refusal(StatusCode::BAD_REQUEST, "InvalidArgument");
        }
        if asked.parameter("sig").is_none_or(|given| given != signature(call.key)) {
            return self.failure(asked, Problem::Expired);
        }
        let Some(object) = &call.object else { return self.failure(asked, Problem::Missing) };
        let part = self.part(asked, call, object);
        // A tag of its own: what the Hub says of the file is in the redirect alone.
        if part.status().is_success() {
            answer::with(part, ETAG, format!("\"cdn-{}\"", signature(call.key)))
        } else {
            part
        }
    }
}

fn signature(key: &str) -> String {
    format!("{:016x}", xxh3_64(key.as_bytes()))
}

fn refusal(status: StatusCode, code: &str) -> Answer {
    xml(status, format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>"))
}

fn failure(status: StatusCode, code: &'static str, message: &str) -> Answer {
    let answer = answer::json(status, &json!({"error": message}));
    let answer = if code.is_empty() { answer } else { answer::with(answer, name("x-error-code"), code) };
    answer::with(answer, name("x-error-message"), message)
}
