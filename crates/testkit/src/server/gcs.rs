//! Google Cloud Storage's JSON interface.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use hyper::header::{ETAG, RANGE};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::answer::{self, Answer, name};
use super::counters::Class;
use super::object::Object;
use super::page::{Entry, page};
use super::protocol::{Asked, Call, Problem, Protocol};
use super::store::Store;
use super::{BUCKET, State};

pub(super) struct Gcs;

/// Where media may be asked for and sent to, beside the path of everything.
const PLACES: [&str; 3] = ["/storage/v1/b/", "/download/storage/v1/b/", "/upload/storage/v1/b/"];

/// The bucket and what follows it.
fn split(path: &str) -> Option<(&str, &str)> {
    let rest = PLACES.iter().find_map(|place| path.strip_prefix(place))?;
    Some(rest.split_once('/').unwrap_or((rest, "")))
}

fn key_of(path: &str) -> &str {
    split(path).and_then(|(_, rest)| rest.strip_prefix("o/")).unwrap_or_default()
}

fn is_media(asked: &Asked<'_>) -> bool {
    asked.path.starts_with(PLACES[1]) || asked.parameter("alt").is_some_and(|alt| alt == "media")
}

impl Protocol for Gcs {
    fn owns(&self, path: &str) -> bool {
        split(path).is_some()
    }

    fn call<'a>(&self, store: &Store, asked: &'a Asked<'a>) -> Call<'a> {
        let key = key_of(asked.path);
        match asked.parts.method {
            Method::GET if split(asked.path).is_some_and(|(_, rest)| rest == "o" || rest == "o/") => {
                Call::of(Class::List, "")
            }
            Method::GET if key.is_empty() => Call::of(Class::Other, ""),
            Method::GET if !is_media(asked) => {
                Call { class: Class::Head, object: store.get(key), ..Call::of(Class::Head, key) }
            }
            ref method => Call::about(method, key, store.get(key), asked.header(RANGE)),
        }
    }

    fn answer(&self, state: &State, asked: &Asked<'_>, call: &Call<'_>) -> Answer {
        if split(asked.path).is_none_or(|(bucket, _)| bucket != BUCKET) {
            return failure(StatusCode::NOT_FOUND, "notFound", "The specified bucket does not exist.");
        }
        match asked.parts.method {
            Method::GET if call.class == Class::List => list(state, asked),
            Method::GET if call.class == Class::Other => {
                answer::json(StatusCode::OK, &json!({"kind": "storage#bucket", "name": BUCKET, "id": BUCKET}))
            }
            Method::GET | Method::HEAD => self.read(asked, call),
            Method::POST => match asked.parameter("name") {
                Some(key) => {
                    let object = state.store.put(&key, asked.body.clone());
                    answer::json(StatusCode::OK, &described(&key, &object, None))
                }
                None => failure(StatusCode::BAD_REQUEST, "required", "Required"),
            },
            Method::DELETE if state.store.remove(call.key) => answer::empty(StatusCode::NO_CONTENT),
            Method::DELETE => self.failure(asked, Problem::Missing),
            _ => self.failure(asked, Problem::BadMethod),
        }
    }

    fn failure(&self, asked: &Asked<'_>, problem: Problem) -> Answer {
        match problem {
            Problem::Missing => {
                let message = format!("No such object: {BUCKET}/{}", key_of(asked.path));
                failure(StatusCode::NOT_FOUND, "notFound", &message)
            }
            Problem::Denied => failure(StatusCode::FORBIDDEN, "forbidden", "Access denied."),
            Problem::Expired => failure(StatusCode::UNAUTHORIZED, "authError", "Invalid Credentials"),
            Problem::Changed => {
                let message = "At least one of the pre-conditions you specified did not hold.";
                failure(StatusCode::PRECONDITION_FAILED, "conditionNotMet", message)
            }
            Problem::BadRange => {
                let message = "The requested range cannot be satisfied.";
                failure(StatusCode::RANGE_NOT_SATISFIABLE, "requestedRangeNotSatisfiable", message)
            }
            Problem::BadMethod => failure(StatusCode::METHOD_NOT_ALLOWED, "methodNotAllowed", "Method not allowed."),
            Problem::Status(status) => {
                let reason = match status {
                    StatusCode::TOO_MANY_REQUESTS => "rateLimitExceeded",
                    StatusCode::NOT_FOUND => "notFound",
                    _ => "backendError",
                };
                failure(status, reason, status.canonical_reason().unwrap_or("Error"))
            }
        }
    }
}

impl Gcs {
    fn read(&self, asked: &Asked<'_>, call: &Call<'_>) -> Answer {
        let asks_other =
            |name, object: &Object| asked.parameter(name).is_some_and(|text| text.parse() != Ok(object.generation));
        // An object of another generation than asked for is not there.
        let object = call.object.as_ref().filter(|object| !asks_other("generation", object));
        let Some(object) = object else { return self.failure(asked, Problem::Missing) };
        if asks_other("ifGenerationMatch", object) {
            return self.failure(asked, Problem::Changed);
        }
        if !is_media(asked) {
            return answer::json(StatusCode::OK, &described(call.key, object, asked.parameter("fields").as_deref()));
        }
        let mut part = self.part(asked, call, object);
        if part.status().is_success() {
            part = answer::with(part, ETAG, tag(object));
            part = answer::with(part, name("x-goog-hash"), format!("crc32c={}", object.crc32c()));
            let headers = part.headers_mut();
            headers.insert("x-goog-generation", object.generation.into());
            headers.insert("x-goog-metageneration", 1.into());
            headers.insert("x-goog-stored-content-encoding", hyper::header::HeaderValue::from_static("identity"));
            headers.insert("x-goog-stored-content-length", object.bytes.len().into());
        }
        part
    }
}

fn list(state: &State, asked: &Asked<'_>) -> Answer {
    let get = |name| asked.parameter(name).unwrap_or_default();
    let (prefix, folded, fields) = (get("prefix"), get("delimiter") == "/", asked.parameter("fields"));
    let after = URL_SAFE.decode(&*get("pageToken")).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(after) = after else { return failure(StatusCode::BAD_REQUEST, "invalid", "Invalid pageToken") };
    let objects = state.store.objects();
    let page = page(&objects, &prefix, &after, folded, state.page(asked.parameter("maxResults").as_deref()));
    let (mut items, mut prefixes) = (Vec::new(), Vec::new());
    for entry in &page.entries {
        match entry {
            Entry::Object(key, object) => items.push(described(key, object, fields.as_deref())),
            Entry::Folder(folder) => prefixes.push(Value::from(*folder)),
        }
    }
    let mut answer = json!({"kind": "storage#objects"});
    // As Google does, what is empty is left out.
    for (name, values) in [("items", items), ("prefixes", prefixes)] {
        if !values.is_empty() {
            answer[name] = values.into();
        }
    }
    if let Some(next) = page.next() {
        answer["nextPageToken"] = URL_SAFE.encode(next).into();
    }
    answer::json(StatusCode::OK, &answer)
}

/// An object's description, as far as a choice of fields names its parts. Digests are costly: they are made only if named, or
/// if nothing is.
fn described(key: &str, object: &Object, fields: Option<&str>) -> Value {
    let wanted = |name: &str| {
        fields.is_none_or(|text| {
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '*').any(|f| f == name || f == "*")
        })
    };
    let mut described = serde_json::Map::new();
    let mut tell = |name: &str, value: &dyn Fn() -> String| {
        if wanted(name) {
            described.insert(name.to_owned(), value().into());
        }
    };
    tell("kind", &|| "storage#object".to_owned());
    tell("name", &|| key.to_owned());
    tell("bucket", &|| BUCKET.to_owned());
    tell("size", &|| object.bytes.len().to_string());
    tell("generation", &|| object.generation.to_string());
    tell("etag", &|| tag(object));
    tell("md5Hash", &|| object.md5().to_owned());
    tell("crc32c", &|| object.crc32c().to_owned());
    tell("updated", &|| object.stored_at().format("%Y-%m-%dT%H:%M:%S.000Z").to_string());
    described.into()
}

/// An entity tag as Google's: of the generation, without quotes.
fn tag(object: &Object) -> String {
    URL_SAFE.encode(object.generation.to_be_bytes())
}

fn failure(status: StatusCode, reason: &str, message: &str) -> Answer {
    let errors = json!([{"message": message, "domain": "global", "reason": reason}]);
    answer::json(status, &json!({"error": {"code": status.as_u16(), "message": message, "errors": errors}}))
}
