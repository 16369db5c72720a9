//! What a protocol is, and which there are.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{CONTENT_RANGE, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use super::answer::{self, Answer};
use super::counters::Class;
use super::object::Object;
use super::store::Store;
use super::{State, azure, gcs, hub, plain, s3};

/// All protocols. S3 takes what no other owns, for its errors are what such a client expects.
pub(super) static PROTOCOLS: [&dyn Protocol; 5] = [&plain::Plain, &hub::Hub, &gcs::Gcs, &azure::Azure, &s3::S3];

/// How requests are understood and answered. Faults are none of its business.
pub(super) trait Protocol: Sync {
    /// Whether requests for a path are of this protocol.
    fn owns(&self, path: &str) -> bool;

    /// What a request asks for.
    fn call<'a>(&self, store: &Store, asked: &'a Asked<'a>) -> Call<'a>;

    /// Does what is asked.
    fn answer(&self, state: &State, asked: &Asked<'_>, call: &Call<'_>) -> Answer;

    /// Says what is wrong, in the protocol's shape.
    fn failure(&self, asked: &Asked<'_>, problem: Problem) -> Answer;

    /// The asked part of an object, without the headers that only this protocol knows.
    fn part(&self, asked: &Asked<'_>, call: &Call<'_>, object: &Object) -> Answer {
        answer::part(object, call.range).unwrap_or_else(|| {
            let shown = format!("bytes */{}", object.bytes.len());
            answer::with(self.failure(asked, Problem::BadRange), CONTENT_RANGE, shown)
        })
    }
}

/// A request as it came.
pub(super) struct Asked<'a> {
    pub(super) parts: &'a Parts,
    /// The path, decoded.
    pub(super) path: &'a str,
    pub(super) body: Bytes,
}

/// What a request asks for, in no protocol's words.
pub(super) struct Call<'a> {
    pub(super) class: Class,
    pub(super) key: &'a str,
    /// The object of that key, where there is one and the request is about it.
    pub(super) object: Option<Arc<Object>>,
    pub(super) range: Option<&'a str>,
    /// Whether the object's bytes are what is asked for.
    pub(super) carries: bool,
}

/// What may be wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    Missing,
    Denied,
    Expired,
    /// The object is not the version that was asked for.
    Changed,
    BadRange,
    BadMethod,
    Status(StatusCode),
}

impl Asked<'_> {
    pub(super) fn header(&self, name: impl Into<HeaderName>) -> Option<&str> {
        self.parts.headers.get(name.into()).and_then(|value| value.to_str().ok())
    }

    pub(super) fn query(&self) -> &str {
        self.parts.uri.query().unwrap_or_default()
    }

    /// The value of a parameter of the query.
    pub(super) fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut pairs = url::form_urlencoded::parse(self.query().as_bytes());
        pairs.find(|(found, _)| found == name).map(|(_, value)| value)
    }

    /// The host and port as the client wrote them.
    pub(super) fn host(&self) -> &str {
        self.header(hyper::header::HOST).unwrap_or("localhost")
    }
}

impl<'a> Call<'a> {
    /// A request that is about no object's bytes.
    pub(super) fn of(class: Class, key: &'a str) -> Self {
        Self { class, key, object: None, range: None, carries: false }
    }

    /// A request about an object, by its method.
    pub(super) fn about(method: &Method, key: &'a str, object: Option<Arc<Object>>, range: Option<&'a str>) -> Self {
        match *method {
            Method::GET => Self { class: Class::Get, key, carries: object.is_some(), object, range },
            Method::HEAD => Self { class: Class::Head, key, carries: false, object, range },
            _ => Self::of(Class::Other, key),
        }
    }
}
