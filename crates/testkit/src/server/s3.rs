//! S3 in path style: what clients ask while training. Signatures are not looked at.

use std::fmt::Write;

use bytes::Bytes;
use hyper::header::{ETAG, IF_MATCH, RANGE};
use hyper::{Method, StatusCode};

use super::answer::{self, Answer, code_of, escaped, name, xml};
use super::counters::Class;
use super::page::{Entry, page};
use super::protocol::{Asked, Call, Problem, Protocol};
use super::store::Store;
use super::{BUCKET, State};

pub(super) struct S3;

/// The key in the bucket, which is empty for the bucket itself.
fn key_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix('/')?.strip_prefix(BUCKET)?;
    rest.strip_prefix('/').or_else(|| rest.is_empty().then_some(""))
}

impl Protocol for S3 {
    fn owns(&self, _: &str) -> bool {
        true // what no other protocol knows gets S3's errors
    }

    fn call<'a>(&self, store: &Store, asked: &'a Asked<'a>) -> Call<'a> {
        let key = key_of(asked.path).unwrap_or_default();
        match (&asked.parts.method, key) {
            (&Method::GET, "") => Call::of(Class::List, ""),
            (method, _) => Call::about(method, key, store.get(key), asked.header(RANGE)),
        }
    }

    fn answer(&self, state: &State, asked: &Asked<'_>, call: &Call<'_>) -> Answer {
        if key_of(asked.path).is_none() {
            return failure(StatusCode::NOT_FOUND, "NoSuchBucket");
        }
        match asked.parts.method {
            Method::GET if call.class == Class::List => list(state, asked),
            Method::GET | Method::HEAD => self.read(asked, call),
            Method::PUT => {
                let object = state.store.put(call.key, asked.body.clone());
                answer::with(answer::empty(StatusCode::OK), ETAG, object.tag.clone())
            }
            Method::DELETE => {
                state.store.remove(call.key);
                answer::empty(StatusCode::NO_CONTENT)
            }
            Method::POST if asked.parameter("delete").is_some() => delete(&state.store, &asked.body),
            _ => self.failure(asked, Problem::BadMethod),
        }
    }

    fn failure(&self, _: &Asked<'_>, problem: Problem) -> Answer {
        match problem {
            Problem::Missing => failure(StatusCode::NOT_FOUND, "NoSuchKey"),
            Problem::Denied => failure(StatusCode::FORBIDDEN, "AccessDenied"),
            Problem::Expired => failure(StatusCode::BAD_REQUEST, "ExpiredToken"),
            Problem::Changed => failure(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"),
            Problem::BadRange => failure(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"),
            Problem::BadMethod => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            Problem::Status(StatusCode::SERVICE_UNAVAILABLE) => failure(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
            Problem::Status(StatusCode::INTERNAL_SERVER_ERROR) => {
                failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")
            }
            Problem::Status(status) => failure(status, &code_of(status)),
        }
    }
}

impl S3 {
    fn read(&self, asked: &Asked<'_>, call: &Call<'_>) -> Answer {
        let Some(object) = &call.object else { return self.failure(asked, Problem::Missing) };
        if !answer::matches(asked.header(IF_MATCH), object.tag()) {
            return self.failure(asked, Problem::Changed);
        }
        let mut part = self.part(asked, call, object);
        if part.status().is_success() {
            part.headers_mut().insert(ETAG, object.tag.clone());
            let wants = asked.header(name("x-amz-checksum-mode")).is_some_and(|mode| mode == "ENABLED");
            if wants && part.status() == StatusCode::OK {
                return answer::with(part, name("x-amz-checksum-crc32c"), object.crc32c());
            }
        }
        part
    }
}

/// Removes the objects whose keys a request lists.
fn delete(store: &Store, body: &Bytes) -> Answer {
    let text = String::from_utf8_lossy(body);
    let mut done = String::from("<DeleteResult>");
    for (key, _) in text.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>")) {
        store.remove(&key.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"));
        let _ = write!(done, "<Deleted><Key>{key}</Key></Deleted>");
    }
    done.push_str("</DeleteResult>");
    xml(StatusCode::OK, done)
}

fn list(state: &State, asked: &Asked<'_>) -> Answer {
    let get = |name| asked.parameter(name).unwrap_or_default();
    let (prefix, folded, start) = (get("prefix"), get("delimiter") == "/", get("start-after"));
    let token = get("continuation-token");
    let after = if token.is_empty() { start } else { token };
    let objects = state.store.objects();
    let page = page(&objects, &prefix, &after, folded, state.page(asked.parameter("max-keys").as_deref()));
    let mut text = String::from("<ListBucketResult>");
    if let Some(next) = page.next() {
        let next = escaped(next);
        let _ = write!(text, "<IsTruncated>true</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>");
    }
    for entry in &page.entries {
        let name = escaped(entry.name());
        let _ = match entry {
            Entry::Folder(_) => write!(text, "<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"),
            Entry::Object(_, object) => write!(
                text,
                "<Contents><Key>{name}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
                object.stored_at().format("%Y-%m-%dT%H:%M:%S.000Z"),
                escaped(object.tag()),
                object.bytes.len()
            ),
        };
    }
    text.push_str("</ListBucketResult>");
    xml(StatusCode::OK, text)
}

fn failure(status: StatusCode, code: &str) -> Answer {
    xml(status, format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>"))
}
