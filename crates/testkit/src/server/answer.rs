//! The makings of answers that all protocols share.

use std::ops::Range;

use bytes::Bytes;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LAST_MODIFIED,
};
use hyper::{Response, StatusCode};

use super::object::Object;

/// An answer before faults and pace: it says what it means.
pub(super) type Answer = Response<Bytes>;

pub(super) fn text(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(text.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

pub(super) fn xml(status: StatusCode, xml: String) -> Answer {
    text(status, "application/xml", xml)
}

pub(super) fn json(status: StatusCode, json: &serde_json::Value) -> Answer {
    text(status, "application/json; charset=utf-8", json.to_string())
}

pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = status;
    answer
}

/// The answer with one header more; a value that no header can hold is left out.
pub(super) fn with(mut answer: Answer, name: impl Into<HeaderName>, value: impl TryInto<HeaderValue>) -> Answer {
    if let Ok(value) = value.try_into() {
        answer.headers_mut().insert(name.into(), value);
    }
    answer
}

pub(super) const fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}

/// An object's bytes as far as asked for; `None` where it has none there.
pub(super) fn part(object: &Object, asked: Option<&str>) -> Option<Answer> {
    let len = object.bytes.len();
    let mut answer = match asked {
        None => Response::new(object.bytes.clone()),
        Some(text) => {
            let range = range_of(text, len)?;
            let shown = format!("bytes {}-{}/{len}", range.start, range.end - 1);
            let mut answer = Response::new(object.bytes.slice(range));
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            with(answer, CONTENT_RANGE, shown)
        }
    };
    let len = answer.body().len();
    let headers = answer.headers_mut();
    headers.insert(CONTENT_LENGTH, len.into());
    headers.insert(LAST_MODIFIED, object.modified.clone());
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Some(answer)
}

/// Whether a condition names this entity tag.
pub(super) fn matches(condition: Option<&str>, tag: &str) -> bool {
    condition.is_none_or(|wanted| wanted == "*" || wanted.split(',').any(|wanted| wanted.trim() == tag))
}

/// `bytes=a-b`, `bytes=a-` or `bytes=-n` within an object of `len` bytes.
fn range_of(text: &str, len: usize) -> Option<Range<usize>> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (from.parse::<usize>().ok(), to.parse::<usize>().ok()) {
        (Some(from), to) => from..to.map_or(len, |to| len.min(to.saturating_add(1))),
        (None, Some(last)) => len.saturating_sub(last)..len,
        (None, None) => return None,
    };
    (range.start < range.end).then_some(range)
}

/// Text as XML and HTML hold it.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// `Service Unavailable` as `ServiceUnavailable`: a code for which a protocol has no other.
pub(super) fn code_of(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or("Error").split(' ').collect()
}
