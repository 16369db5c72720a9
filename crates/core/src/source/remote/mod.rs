//! What the sources that speak HTTP share: everything but the words of their protocol.
//!
//! A [`Protocol`] says how a page of a listing and an object are asked for, how an answer is read and how a request is
//! signed. [`Remote`] makes a [`Source`] of it: it follows pages, keeps to versions, reads bodies into pooled buffers, and
//! distrusts. Servers ignore conditions, answer a range with the whole object, send login pages for objects, end early or
//! go on; so what an answer says of itself is compared with what was asked for, its length with the object's, and its bytes
//! with a checksum where the server names a cheap one.
//!
//! Retries, hedges and deadlines are policies (`fetch`): here one request is one request, but for redirects and for
//! credentials that have expired.

mod body;
pub(super) mod credentials;
mod digest;
mod kept;
mod outside;
mod paging;
mod protocol;
mod refusal;
pub(super) mod request;
mod said;
pub(super) mod text;
mod token;
mod wire;

use std::sync::OnceLock;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_LENGTH, RANGE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::de::DeserializeOwned;

use super::{Listed, ObjectBytes, ObjectMeta, ReadRequest, Source, Version, check_key, check_range, check_version};
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};

use body::Body;
pub use digest::is_sha256_checked;
pub(super) use digest::{Algorithm, Digest};
pub(super) use kept::Missing;
pub(super) use protocol::{Answer, Asked, Parsed, Protocol};
pub(super) use refusal::Place;
use refusal::Refusal;
use said::Said;
pub(super) use token::Token;
pub use wire::Transport;
pub(super) use wire::Wire;

/// Of an answer that is none, more than errors show.
const MOST_SHOWN: usize = 4 << 10;
/// No store has larger ones; sizes beyond are not true.
const LARGEST_OBJECT: u64 = 1 << 46;

/// A source made of a protocol.
#[derive(Debug)]
pub(super) struct Remote<P> {
    protocol: P,
    wire: Wire,
    uri: String,
    verified: OnceLock<&'static str>,
}

impl<P: Protocol> Remote<P> {
    pub(super) fn new(protocol: P, wire: Wire) -> Self {
        let uri = protocol.place().uri.clone();
        Self { protocol, wire, uri, verified: OnceLock::new() }
    }

    /// Asks for one object's name, so that a wrong place, key or endpoint shows now.
    pub(super) async fn checked(self, transport: &Transport) -> Result<Self> {
        if !transport.look {
            return Ok(self);
        }
        self.parsed(&Asked { max: Some(1), ..Asked::default() }).await?;
        Ok(self)
    }

    /// Asks for anything at all, so that a wrong host shows now; what the answer says of the root matters later.
    pub(super) async fn reached(&self) -> Result<()> {
        let answer = self.send("open", &self.uri, || self.protocol.page(&Asked::default())).await;
        let is_elsewhere = |error: &Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid);
        match answer {
            // A folder that is not listed is refused by some servers as if it were secret.
            Err(error) if error.kind() == ErrorKind::Denied && !error.to_string().contains("(status 401)") => Ok(()),
            Err(error) if is_elsewhere(&error) => Ok(()),
            other => other.map(drop),
        }
    }

    async fn parsed(&self, asked: &Asked<'_>) -> Result<Parsed> {
        let (answer, said) = self.send("list", &self.uri, || self.protocol.page(asked)).await?;
        let answer = self.whole("list", answer).await?;
        let parsed = self.protocol.parse(asked, &answer).map_err(|words| {
            let shown = String::from_utf8_lossy(&answer.body[..answer.body.len().min(MOST_SHOWN)]);
            // The words may end in the middle of a secret, where the answer goes on.
            let words =
                if said.is_in(&shown) { "the answer is no listing, and repeats credentials".to_owned() } else { words };
            Error::new(ErrorKind::Unavailable, "list", &self.uri).because(words + &self.at())
        })?;
        if let Some(object) = parsed.objects.iter().find(|object| object.size > LARGEST_OBJECT) {
            let words = format!("the listing tells of an object of {} bytes{}", object.size, self.at());
            return Err(Error::new(ErrorKind::Unavailable, "list", &self.uri).because(words));
        }
        Ok(parsed)
    }

    async fn send(
        &self,
        op: &'static str,
        name: &str,
        request: impl Fn() -> Result<Parts> + Sync,
    ) -> Result<(reqwest::Response, Said)> {
        send(&self.protocol, &self.wire, op, name, request, &Bytes::new()).await
    }

    async fn whole(&self, op: &'static str, answer: reqwest::Response) -> Result<Answer> {
        let (url, headers) = (answer.url().clone(), answer.headers().clone());
        let body = body::collect(answer, &self.uri).await.map_err(|error| error.renamed(op))?;
        Ok(Answer { url, headers, body })
    }

    fn object(&self, method: &Method, request: &ReadRequest) -> Result<Parts> {
        let mut parts = self.protocol.object(method.clone(), &request.key)?;
        self.protocol.expect(&mut parts, &request.version);
        match &request.range {
            Some(range) => {
                let range = format!("bytes={}-{}", range.start, range.end - 1);
                parts.headers.insert(RANGE, header_value(&range)?);
            }
            None => self.protocol.ask_for_digest(&mut parts),
        }
        Ok(parts)
    }

    /// Size and version as an answer for an object tells them.
    fn meta(&self, name: &str, key: &str, headers: &HeaderMap, size: Option<u64>) -> Result<ObjectMeta> {
        let version = self.protocol.version(headers);
        let strange = |words: &str| {
            Error::new(ErrorKind::Unavailable, "read", name).because(format_args!("{words}{}", self.at()))
        };
        let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("unknown");
        // Files have times; pages that ask for a login have none.
        let is_page = kind.starts_with("text/html");
        if version == Version::Unknown && (self.protocol.always_has_versions() || is_page) {
            return Err(strange(&format!("the answer has no version, it is not the store's (content type {kind})")));
        }
        let size = size.ok_or_else(|| strange("the answer does not tell the object's size"))?;
        Ok(ObjectMeta { key: key.to_owned(), size, version })
    }

    fn at(&self) -> String {
        self.protocol.place().at()
    }

    /// A refused range is told from other refusals by the object's size: servers do not agree on how they say it.
    async fn explain(&self, request: &ReadRequest, name: &str, error: Error) -> Error {
        let may_be_range = matches!(error.kind(), ErrorKind::OutOfRange | ErrorKind::Unavailable);
        if request.range.is_some()
            && may_be_range
            && !error.is_throttled()
            && let Ok(meta) = self.head(&request.key).await
            && let Err(error) = check_range(name, request.range.as_ref(), meta.size)
        {
            return error;
        }
        error
    }
}

/// Sends what `request` makes, anew once when the credentials have expired: the answer, and what not to repeat of the request.
/// What is no success is an error.
async fn send(
    protocol: &impl Protocol,
    wire: &Wire,
    op: &'static str,
    name: &str,
    request: impl Fn() -> Result<Parts> + Sync,
    body: &Bytes,
) -> Result<(reqwest::Response, Said)> {
    let mut is_second = false;
    loop {
        let mut parts = request()?;
        let given = protocol.authorize(&mut parts).await.map_err(|missing| {
            let (words, tried) = (&missing.words, protocol.credentials());
            let error =
                Error::new(missing.kind(), op, name).because(format_args!("{words}; credentials tried: {tried}"));
            if missing.may_pass { error } else { error.unasked() }
        })?;
        let said = Said::of(&parts);
        let sent = wire.send(parts, body, protocol.follows_redirects()).await;
        let answer = sent.map_err(|failure| failure.into_error(op, name, protocol.place()))?;
        let said = if protocol.follows_redirects() { said.led_to(answer.url()) } else { said };
        if answer.status().is_success() {
            return Ok((answer, said));
        }
        let refusal = Refusal::read(answer, |headers, body| protocol.reason(headers, body), &said).await;
        if let Some(given) = given.filter(|_| refusal.may_be_expired() && !is_second) {
            protocol.renew(given);
            is_second = true;
            continue;
        }
        return Err(refusal.into_error(op, name, protocol.place(), &protocol.credentials()));
    }
}

/// Asks a protocol's server for a JSON document, while a source is being opened.
pub(super) async fn get_json<T: DeserializeOwned>(protocol: &impl Protocol, wire: &Wire, url: &str) -> Result<T> {
    let uri = &protocol.place().uri;
    let (answer, _) = send(protocol, wire, "open", uri, || request::request(Method::GET, url), &Bytes::new()).await?;
    let body = body::collect(answer, uri).await?;
    serde_json::from_slice(&body).map_err(|_| {
        let words = format!("the answer is not what was asked for{}", protocol.place().at());
        Error::new(ErrorKind::Unavailable, "open", uri).because(words)
    })
}

#[async_trait]
impl<P: Protocol> Source for Remote<P> {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn endpoint(&self) -> Option<&str> {
        self.protocol.place().endpoint.as_deref()
    }

    fn is_pinned(&self) -> bool {
        self.protocol.is_pinned()
    }

    fn credentials(&self) -> String {
        self.protocol.credentials()
    }

    fn verified(&self) -> Option<&'static str> {
        self.verified.get().copied()
    }

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        self.listed(prefix, token).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        check_key(&self.uri, key)?;
        let name = self.uri_of(key);
        let (answer, said) = self.send("look at", &name, || self.protocol.object(Method::HEAD, key)).await?;
        let size = body::length(answer.headers());
        self.meta(&name, key, answer.headers(), size).map_err(|error| said.kept_out_of(error))
    }

    fn publish<'a>(&'a self, key: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            check_key(&self.uri, key)?;
            let name = self.uri_of(key);
            let put = || match self.protocol.put(key) {
                Some(parts) => parts.map(|mut parts| {
                    parts.headers.insert(CONTENT_LENGTH, bytes.len().into());
                    parts
                }),
                None => Err(Error::new(ErrorKind::Unsupported, "write", &name).because("nothing can be written there")),
            };
            send(&self.protocol, &self.wire, "write", &name, put, &bytes).await.map(drop)
        })
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        check_key(&self.uri, &request.key)?;
        let name = self.uri_of(&request.key);
        if let Some(range) = request.range.as_ref().filter(|range| range.start >= range.end) {
            // No HTTP range is empty: only the version and size can be asked for.
            let meta = self.head(&request.key).await?;
            check_version(&name, &request.version, &meta.version)?;
            check_range(&name, Some(range), meta.size)?;
            return Ok(ObjectBytes { bytes: Bytes::new(), meta });
        }
        match self.send("read", &name, || self.object(&Method::GET, request)).await {
            Ok((answer, said)) => {
                let received = self.receive(request, &name, answer, buffers).await;
                received.map_err(|error| said.kept_out_of(error))
            }
            Err(error) => Err(self.explain(request, &name, error).await),
        }
    }
}

impl<P: Protocol> Remote<P> {
    /// The object that an answer holds, if it is the one that was asked for.
    async fn receive(
        &self,
        request: &ReadRequest,
        name: &str,
        answer: reqwest::Response,
        buffers: &BufferPool,
    ) -> Result<ObjectBytes> {
        let headers = answer.headers();
        let sent = body::sent_range(headers);
        let total = match &request.range {
            Some(_) => sent.as_ref().map(|(_, total)| *total),
            None => body::length(headers).or(request.size),
        };
        if let Some(range) = &request.range
            && answer.status() != StatusCode::PARTIAL_CONTENT
        {
            return Err(Error::new(ErrorKind::Unsupported, "read", name)
                .because(format_args!("asked for bytes {range:?}, the server sent the whole object{}", self.at())));
        }
        let digest = if request.range.is_none() { self.protocol.digest(headers) } else { None };
        let meta = self.meta(name, &request.key, headers, total)?;
        check_version(name, &request.version, &meta.version)?;
        let range = check_range(name, request.range.as_ref(), meta.size)?;
        if let Some((sent, _)) = sent.filter(|(sent, _)| *sent != range) {
            return Err(Error::new(ErrorKind::Unavailable, "read", name)
                .because(format_args!("asked for bytes {range:?}, the server sent {sent:?}")));
        }
        check_size(name, request, &meta)?;
        let algorithm = digest.as_ref().map(Digest::name);
        let (expected, is_known) =
            ((range.end - range.start) as usize, request.range.is_some() || request.size.is_some());
        let buffer = body::read(answer, Body { name, expected, is_known, digest }, buffers).await?;
        if let Some(algorithm) = algorithm {
            let _ = self.verified.set(algorithm);
        }
        Ok(ObjectBytes { bytes: buffer.freeze(), meta })
    }
}

/// Refuses an object of another size than the listed one: replaced, or where the version is the listed one, not whole.
fn check_size(name: &str, request: &ReadRequest, found: &ObjectMeta) -> Result<()> {
    let Some(listed) = request.size.filter(|&size| size != found.size) else { return Ok(()) };
    let is_same = request.version != Version::Unknown && request.version == found.version;
    let (kind, words) = if is_same {
        (ErrorKind::Unavailable, "the answer is not whole")
    } else {
        (ErrorKind::Changed, "it was replaced")
    };
    Err(Error::new(kind, "read", name)
        .because(format_args!("{words}: {} bytes instead of the listed {listed}", found.size)))
}

/// A header's value that we made ourselves.
pub(super) fn header_value(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| {
        Error::new(ErrorKind::Invalid, "send", "header").because("it has a character that headers cannot have")
    })
}
