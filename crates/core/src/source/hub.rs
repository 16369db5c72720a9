//! The Hugging Face Hub: datasets and models, over its plain HTTP API.
//!
//! The revision is resolved to a commit when the source is opened, and only that commit is read: what it holds cannot change.
//! Large files are redirected to another host, which gets the range and not the token. An object's version is its hash: the
//! SHA-256 of a large file, which is checked, or git's own of a small one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use http::request::Parts;
use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::options::{Known, env};
use super::remote::request::{folder, http_url, refuse_query, request, tag_in};
use super::remote::{
    Algorithm, Answer, Asked, Digest, Missing, Parsed, Place, Protocol, Remote, Token, Transport, Wire, text,
};
use super::{Kind, Probe, Source, SourceSpec, Version, unusable};
use crate::error::Result;

pub(super) const KIND: Kind = Kind {
    name: "Hugging Face Hub",
    schemes: &["hf"],
    example: "hf://datasets/org/name@revision/path",
    is_written: false,
    open: |spec, transport| Box::pin(open(spec, transport)),
    probe: |spec, transport| Box::pin(async { Probe::of(prepare(spec, transport).await?) }),
};

const OPTIONS: &[Known] = &[
    ("endpoint", &["hf_endpoint"]),
    ("token", &["hf_token"]),
    ("anonymous", &["skip_signature"]),
    ("allow_http", &[]),
];
const ENDPOINT: &str = "https://huggingface.co";
const EXPECTED: &str = "expected hf://datasets/org/name@revision/path, or hf://org/name@revision/path for a model";

/// A folder of one commit of a repository.
#[derive(Debug)]
struct Hub {
    place: Place,
    /// `…/api/datasets/org/name`.
    api_url: String,
    /// `…/datasets/org/name`.
    files_url: String,
    /// `datasets/org/name`.
    name: String,
    /// The revision that was asked for, until it is resolved.
    commit: String,
    prefix: String,
    token: Token,
    verify: bool,
}

/// What a URI says.
struct Address {
    is_dataset: bool,
    repository: String,
    revision: String,
    path: String,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    oid: String,
    #[serde(default)]
    size: u64,
    path: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

async fn open(spec: &SourceSpec, transport: &Transport) -> Result<Arc<dyn Source>> {
    let mut protocol = prepare(spec, transport).await?;
    let wire = Wire::new(transport)?;
    let url = format!("{}/revision/{}", protocol.api_url, text::component(&protocol.commit));
    let found: Revision = super::remote::get_json(&protocol, &wire, &url).await?;
    let uri = format!("hf://{}@{}/{}", protocol.name, found.sha, protocol.prefix);
    uri.trim_end_matches('/').clone_into(&mut protocol.place.uri);
    protocol.commit = found.sha;
    Ok(Arc::new(Remote::new(protocol, wire)))
}

async fn prepare(spec: &SourceSpec, transport: &Transport) -> Result<Hub> {
    let options = spec.options.known(&spec.uri, OPTIONS)?;
    let address = parse(&spec.uri)?;
    let endpoint = options.get("endpoint").map(str::to_owned).or_else(|| env(&["HF_ENDPOINT"]));
    let base = http_url(endpoint.as_deref().unwrap_or(ENDPOINT))?;
    let base = base.as_str().trim_end_matches('/');
    let token = match (options.credentials()?, options.get("token")) {
        _ if options.is_on("anonymous")? => Token::none(),
        (Some(provider), _) => Token::callable(provider, transport),
        (None, Some(token)) => Token::fixed(&spec.uri, "the token in the source's options", token)?,
        (None, None) => standard_token(&spec.uri).await?,
    };
    let kind = if address.is_dataset { "datasets/" } else { "" };
    let api_kind = if address.is_dataset { "datasets/" } else { "models/" };
    let repository = &address.repository;
    Ok(Hub {
        place: Place {
            uri: spec.uri.trim_end_matches('/').to_owned(),
            container: format!("repository `{kind}{repository}` with revision `{}`", address.revision),
            endpoint,
        },
        api_url: format!("{base}/api/{api_kind}{repository}"),
        files_url: format!("{base}/{kind}{repository}"),
        name: format!("{kind}{repository}"),
        commit: address.revision,
        prefix: folder(&address.path),
        token,
        verify: transport.verify,
    })
}

fn parse(uri: &str) -> Result<Address> {
    let wrong = || unusable(uri, format_args!("{EXPECTED}"));
    let rest = uri.strip_prefix("hf://").ok_or_else(wrong)?;
    refuse_query(uri, rest)?;
    let (is_dataset, rest) = rest.strip_prefix("datasets/").map_or((false, rest), |rest| (true, rest));
    let mut parts = rest.splitn(3, '/');
    let (org, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let path = parts.next().unwrap_or_default().to_owned();
    let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !is_name(org) || !is_name(name) || revision.is_empty() || org == "spaces" {
        return Err(wrong());
    }
    let revision = percent_decode_str(revision).decode_utf8().map_err(|_| wrong())?.into_owned();
    Ok(Address { is_dataset, repository: format!("{org}/{name}"), revision, path })
}

/// `HF_TOKEN`, or the file that `hf auth login` writes.
#[allow(clippy::disallowed_methods)] // the token is kept in a file
async fn standard_token(uri: &str) -> Result<Token> {
    if let Some(token) = env(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
        return Token::fixed(uri, "HF_TOKEN of the environment", &token);
    }
    let home = env(&["HF_HOME"]).map(PathBuf::from);
    let cache = || {
        let cache = env(&["XDG_CACHE_HOME"]).map(PathBuf::from);
        cache.or_else(|| env(&["HOME"]).map(|home| PathBuf::from(home).join(".cache"))).map(|it| it.join("huggingface"))
    };
    let path =
        env(&["HF_TOKEN_PATH"]).map(PathBuf::from).or_else(|| home.or_else(cache).map(|home| home.join("token")));
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path?).ok()).await;
    match read.ok().flatten().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()) {
        Some(token) => Token::fixed(uri, "the token file of `hf auth login`", &token),
        None => Ok(Token::missing("none (set HF_TOKEN, or log in with `hf auth login`)")),
    }
}

#[async_trait]
impl Protocol for Hub {
    fn place(&self) -> &Place {
        &self.place
    }

    fn page(&self, asked: &Asked<'_>) -> Result<Parts> {
        if let Some(next) = asked.token {
            return request(Method::GET, next);
        }
        let folder = format!("{}{}", self.prefix, asked.folder);
        let folder = if folder.is_empty() { folder } else { format!("/{}", text::path(folder.trim_end_matches('/'))) };
        request(
            Method::GET,
            &format!("{}/tree/{}{folder}?recursive={}&expand=false", self.api_url, self.commit, !asked.is_shallow),
        )
    }

    fn parse(&self, asked: &Asked<'_>, answer: &Answer) -> Result<Parsed, String> {
        let entries: Vec<Entry> = serde_json::from_slice(&answer.body).map_err(|_| text::no_listing(&answer.body))?;
        let mut parsed = Parsed::with_next(next_page(answer)?);
        for entry in entries {
            let Some(key) = entry.path.strip_prefix(&self.prefix) else { continue };
            if entry.kind != "file" {
                if asked.is_shallow && entry.kind == "directory" {
                    parsed.add_folder(format!("{key}/"));
                }
                continue;
            }
            let (size, hash) = entry.lfs.map_or((entry.size, entry.oid), |lfs| (lfs.size, lfs.oid));
            parsed.add(key, Some(size), Version::ETag(hash));
        }
        Ok(parsed)
    }

    fn object(&self, method: Method, key: &str) -> Result<Parts> {
        let path = format!("{}{}", text::path(&self.prefix), text::path(key));
        request(method, &format!("{}/resolve/{}/{path}", self.files_url, self.commit))
    }

    fn expect(&self, _: &mut Parts, _: &Version) {
        // The commit has been said already.
    }

    fn version(&self, headers: &HeaderMap) -> Version {
        let linked = headers.get("x-linked-etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let tag = match (linked, tag_in(headers)) {
            (Some(tag), _) | (None, Version::ETag(tag)) => tag,
            (None, other) => return other,
        };
        Version::ETag(tag.trim_start_matches("W/").trim_matches('"').to_owned())
    }

    fn digest(&self, headers: &HeaderMap) -> Option<Digest> {
        // Large files are named by the hash of their bytes; git's hash of small ones is of more than those.
        match self.version(headers) {
            Version::ETag(hash) if self.verify && hash.len() == 64 => Digest::from_hex(Algorithm::Sha256, &hash),
            _ => None,
        }
    }

    async fn authorize(&self, request: &mut Parts) -> Result<Option<Instant>, Missing> {
        self.token.authorize(request).await
    }

    fn renew(&self, given: Instant) {
        self.token.renew(given);
    }

    fn credentials(&self) -> String {
        self.token.described()
    }

    fn follows_redirects(&self) -> bool {
        true
    }

    fn is_pinned(&self) -> bool {
        true
    }

    fn reason(&self, headers: &HeaderMap, _: &[u8]) -> (Option<String>, Option<String>) {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        (header("x-error-code"), header("x-error-message").map(|words| text::shortened(&words)))
    }
}

/// Where a `Link` header says that the listing goes on, asked of the server that said so: mirrors name the original.
fn next_page(answer: &Answer) -> Result<Option<String>, String> {
    let headers = answer.headers.get_all("link").iter().filter_map(|value| value.to_str().ok());
    for link in headers.flat_map(|value| value.split('<').skip(1)) {
        let Some((url, parameters)) = link.split_once('>') else { continue };
        let is_next = parameters.split([';', ',']).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        });
        if is_next {
            let next = answer.url.join(url).map_err(|_| "the listing goes on at what is no URL".to_owned())?;
            let mut own = answer.url.clone();
            own.set_path(next.path());
            own.set_query(next.query());
            return Ok(Some(own.into()));
        }
    }
    Ok(None)
}
