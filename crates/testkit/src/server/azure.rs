//! Azure Blob Storage, with the account in the path as its emulators have it.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{ETAG, IF_MATCH, RANGE};
use hyper::{Method, StatusCode};

use super::answer::{self, Answer, code_of, escaped, name, xml};
use super::counters::Class;
use super::object::Object;
use super::page::{Entry, page};
use super::protocol::{Asked, Call, Problem, Protocol};
use super::store::Store;
use super::{BUCKET, State};

pub(super) struct Azure;

/// The account of the usual emulators.
pub(super) const ACCOUNT: &str = "devstoreaccount1";

/// The container and the blob in it.
fn split(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix('/')?.strip_prefix(ACCOUNT)?.strip_prefix('/')?;
    Some(rest.split_once('/').unwrap_or((rest, "")))
}

impl Protocol for Azure {
    fn owns(&self, path: &str) -> bool {
        split(path).is_some()
    }

    fn call<'a>(&self, store: &Store, asked: &'a Asked<'a>) -> Call<'a> {
        let (_, key) = split(asked.path).unwrap_or_default();
        if key.is_empty() {
            let lists = asked.parameter("comp").is_some_and(|comp| comp == "list");
            return Call::of(if lists { Class::List } else { Class::Other }, "");
        }
        // Azure's own header outranks the standard one.
        let range = asked.header(name("x-ms-range")).or_else(|| asked.header(RANGE));
        Call::about(&asked.parts.method, key, store.get(key), range)
    }

    fn answer(&self, state: &State, asked: &Asked<'_>, call: &Call<'_>) -> Answer {
        if split(asked.path).is_none_or(|(container, _)| container != BUCKET) {
            return failure(StatusCode::NOT_FOUND, "ContainerNotFound");
        }
        match asked.parts.method {
            Method::GET if call.class == Class::List => list(state, asked),
            Method::GET | Method::HEAD if call.key.is_empty() => answer::empty(StatusCode::OK),
            Method::GET | Method::HEAD => self.read(asked, call),
            Method::PUT => {
                let object = state.store.put(call.key, asked.body.clone());
                answer::with(answer::empty(StatusCode::CREATED), ETAG, format!("\"{}\"", tag(&object)))
            }
            Method::DELETE if state.store.remove(call.key) => answer::empty(StatusCode::ACCEPTED),
            Method::DELETE => self.failure(asked, Problem::Missing),
            _ => self.failure(asked, Problem::BadMethod),
        }
    }

    fn failure(&self, _: &Asked<'_>, problem: Problem) -> Answer {
        match problem {
            Problem::Missing => failure(StatusCode::NOT_FOUND, "BlobNotFound"),
            Problem::Denied => failure(StatusCode::FORBIDDEN, "AuthorizationFailure"),
            Problem::Expired => failure(StatusCode::FORBIDDEN, "AuthenticationFailed"),
            Problem::Changed => failure(StatusCode::PRECONDITION_FAILED, "ConditionNotMet"),
            Problem::BadRange => failure(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"),
            Problem::BadMethod => failure(StatusCode::METHOD_NOT_ALLOWED, "UnsupportedHttpVerb"),
            Problem::Status(StatusCode::SERVICE_UNAVAILABLE) => failure(StatusCode::SERVICE_UNAVAILABLE, "ServerBusy"),
            Problem::Status(StatusCode::INTERNAL_SERVER_ERROR) => {
                failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")
            }
            Problem::Status(status) => failure(status, &code_of(status)),
        }
    }
}

impl Azure {
    fn read(&self, asked: &Asked<'_>, call: &Call<'_>) -> Answer {
        let Some(object) = &call.object else { return self.failure(asked, Problem::Missing) };
        let tag = format!("\"{}\"", tag(object));
        if !answer::matches(asked.header(IF_MATCH), &tag) {
            return self.failure(asked, Problem::Changed);
        }
        let part = self.part(asked, call, object);
        if !part.status().is_success() {
            return part;
        }
        answer::with(answer::with(part, ETAG, tag), name("x-ms-blob-type"), "BlockBlob")
    }
}

fn list(state: &State, asked: &Asked<'_>) -> Answer {
    let get = |name| asked.parameter(name).unwrap_or_default();
    let (prefix, folded) = (get("prefix"), get("delimiter") == "/");
    let after = STANDARD.decode(&*get("marker")).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(after) = after else { return failure(StatusCode::BAD_REQUEST, "InvalidQueryParameterValue") };
    let objects = state.store.objects();
    let page = page(&objects, &prefix, &after, folded, state.page(asked.parameter("maxresults").as_deref()));
    let mut text = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ServiceEndpoint=\"http://{}/{ACCOUNT}/\" \
         ContainerName=\"{BUCKET}\"><Prefix>{}</Prefix><Blobs>",
        escaped(asked.host()),
        escaped(&prefix)
    );
    for entry in &page.entries {
        let name = escaped(entry.name());
        let _ = match entry {
            Entry::Folder(_) => write!(text, "<BlobPrefix><Name>{name}</Name></BlobPrefix>"),
            Entry::Object(_, object) => write!(
                text,
                "<Blob><Name>{name}</Name><Properties><Last-Modified>{}</Last-Modified><Etag>{}</Etag><Content-Length>{}\
                 </Content-Length><Content-Type>application/octet-stream</Content-Type><BlobType>BlockBlob</BlobType>\
                 </Properties></Blob>",
                object.modified.to_str().unwrap_or_default(),
                tag(object),
                object.bytes.len()
            ),
        };
    }
    text.push_str("</Blobs>");
    let _ = match page.next() {
        Some(next) => write!(text, "<NextMarker>{}</NextMarker>", STANDARD.encode(next)),
        None => write!(text, "<NextMarker />"),
    };
    text.push_str("</EnumerationResults>");
    xml(StatusCode::OK, text)
}

/// An entity tag as Azure's: of the time, so that the same content stored again has another.
fn tag(object: &Object) -> String {
    format!("0x8DE{:012X}", object.generation)
}

fn failure(status: StatusCode, code: &str) -> Answer {
    let text = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    );
    answer::with(xml(status, text), name("x-ms-error-code"), code)
}
