//! What the Hub tells about files: listings in pages, and files by name.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::LINK;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::{Value, json};

use super::State;
use super::answer::{self, Answer};
use super::hub::is_large;
use super::object::{Object, blob_id, hex};
use super::page::{Entry, page};
use super::protocol::Asked;
use super::store::{Commit, Map};

/// What cannot stand in the path of a link.
const IN_PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%').add(b'#').add(b'?').add(b'<').add(b'>');

/// The dataset's description.
pub(super) fn dataset(name: &str, commit: &Commit) -> Answer {
    let author = name.split('/').next();
    let time = "2026-01-01T00:00:00.000Z";
    // A few files are enough: this is not the way to list.
    let files: Vec<_> = commit.objects.keys().take(1000).map(|key| json!({"rfilename": &**key})).collect();
    answer::json(
        StatusCode::OK,
        &json!({
            "_id": "000000000000000000000000", "id": name, "author": author, "sha": commit.id, "lastModified": time,
            "createdAt": time, "private": name.starts_with("private/"), "gated": false, "disabled": false, "tags": [],
            "downloads": 0, "likes": 0, "siblings": files,
        }),
    )
}

/// A page of what lies below a folder; `None` if there is no such folder.
pub(super) fn tree(state: &State, asked: &Asked<'_>, objects: &Map, folder: &str) -> Option<Answer> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{}/", folder.trim_end_matches('/')) };
    let recursive = asked.parameter("recursive").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let after = asked.parameter("cursor").unwrap_or_default();
    let page = page(objects, &prefix, &after, !recursive, state.page(asked.parameter("limit").as_deref()));
    if page.entries.is_empty() && !prefix.is_empty() && after.is_empty() {
        return None;
    }
    let mut rows = Vec::with_capacity(page.entries.len());
    let mut before = if after.is_empty() { &*prefix } else { &*after };
    for entry in &page.entries {
        match entry {
            Entry::Folder(name) => rows.push(directory(name.trim_end_matches('/'))),
            Entry::Object(key, object) => {
                rows.extend(entered(before, key, prefix.len()).map(directory));
                rows.push(file(key, object));
                before = key;
            }
        }
    }
    let answer = answer::json(StatusCode::OK, &rows.into());
    Some(match page.next() {
        None => answer,
        Some(next) => answer::with(answer, LINK, link(asked, next)),
    })
}

/// The folders of a key that the key before it was not in.
fn entered<'a>(before: &'a str, key: &'a str, from: usize) -> impl Iterator<Item = &'a str> {
    let slashes = key.match_indices('/').map(|(place, _)| place).filter(move |place| *place >= from);
    slashes.filter(move |place| !before.starts_with(&key[..=*place])).map(|place| &key[..place])
}

/// The address of the next page: this one's with another cursor.
fn link(asked: &Asked<'_>, next: &str) -> String {
    let kept = asked.query().split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    let query: String = kept.flat_map(|pair| [pair, "&"]).collect();
    let path = utf8_percent_encode(asked.path, IN_PATH);
    let cursor = utf8_percent_encode(next, NON_ALPHANUMERIC);
    format!("<http://{}{path}?{query}cursor={cursor}>; rel=\"next\"", asked.host())
}

/// The files and folders that a body names, as JSON or as a form; what is not there is left out.
pub(super) fn paths(objects: &Map, body: &Bytes) -> Answer {
    let asked: Vec<String> = if let Ok(json) = serde_json::from_slice::<Value>(body) {
        let named = json["paths"].as_array().into_iter().flatten();
        named.filter_map(|path| path.as_str().map(str::to_owned)).collect()
    } else {
        let pairs = url::form_urlencoded::parse(body).filter(|(name, _)| name == "paths");
        pairs.map(|(_, path)| path.into_owned()).collect()
    };
    let rows = asked.iter().filter_map(|path| {
        let path = path.trim_end_matches('/');
        let found = objects.get(path).map(|object| file(path, object));
        let below = || !page(objects, &format!("{path}/"), "", false, 1).entries.is_empty();
        found.or_else(|| below().then(|| directory(path)))
    });
    answer::json(StatusCode::OK, &rows.collect::<Vec<_>>().into())
}

fn directory(path: &str) -> Value {
    json!({"type": "directory", "oid": hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, path.as_bytes()).as_ref()), "size": 0, "path": path})
}

/// Git knows a large file by the pointer that it keeps in its place.
fn file(path: &str, object: &Object) -> Value {
    let len = object.bytes.len();
    if !is_large(path, object) {
        return json!({"type": "file", "oid": object.blob(), "size": len, "path": path});
    }
    let sha256 = object.sha256();
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len}\n");
    let lfs = json!({"oid": sha256, "size": len, "pointerSize": pointer.len()});
    json!({"type": "file", "oid": blob_id(pointer.as_bytes()), "size": len, "path": path, "lfs": lfs})
}
