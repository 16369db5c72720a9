//! Connections: one client per source, with its timeouts, and redirects.

use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE, LOCATION};
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use url::Url;

use super::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::source::install_tls;

/// More redirects than this lead nowhere.
const MAX_REDIRECTS: usize = 10;
/// A connection that nobody used for so long is closed: most servers have done so by then.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// How answers are waited for and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// For a connection. A server that does not accept one in this time is not there. Default: 5 s.
    pub connect: Duration,
    /// For the next byte of an answer, the first one included. Default: 15 s, since a store that is busy may think for
    /// several seconds before it answers, and none pauses for so long in the middle.
    pub no_progress: Duration,
    /// For credentials, from a service, a command or a function; some have less. Default: 30 s, half of the deadline of a read,
    /// so that its error can tell whom it waited for.
    pub credentials: Duration,
    /// Whether whole objects are checked against the checksums that servers name, where that is cheap. Default: yes.
    pub verify: bool,
    /// Whether opening a source asks for the name of one object, so that a wrong place shows at once; who has no right to list
    /// is refused then. Default: yes.
    pub look: bool,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            no_progress: Duration::from_secs(15),
            credentials: Duration::from_secs(30),
            verify: true,
            look: true,
        }
    }
}

/// A client with its connections.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    client: Client,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    Request(reqwest::Error),
    Redirect(String),
}

impl Wire {
    pub(crate) fn new(timeouts: &Transport) -> Result<Self> {
        install_tls();
        let client = Client::builder()
            .connect_timeout(timeouts.connect)
            .read_timeout(timeouts.no_progress)
            .pool_idle_timeout(IDLE_TIMEOUT)
            // Faster than multiplexing for bodies of this size, and spreads over the servers behind one name.
            .http1_only()
            .redirect(Policy::none())
            .user_agent(concat!("headwater/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|cause| Error::new(ErrorKind::Internal, "make", "an HTTP client").caused_by(cause))?;
        Ok(Self { client })
    }

    /// Sends a request. Redirects keep its headers, but credentials stay with the host they are for. What a
    /// redirect says of the object it leads to (`x-linked-…`) is found among the headers of the answer.
    pub(crate) async fn send(&self, mut parts: Parts, body: &bytes::Bytes, follow: bool) -> Result<Response, Failure> {
        let mut linked = HeaderMap::new();
        for _ in 0..=MAX_REDIRECTS {
            let again = follow.then(|| parts.clone());
            let request =
                reqwest::Request::try_from(Request::from_parts(parts, body.clone())).map_err(Failure::Request)?;
            let mut answer = self.client.execute(request).await.map_err(Failure::Request)?;
            let Some(again) = again.filter(|_| is_redirect(answer.status())) else {
                answer.headers_mut().extend(linked);
                return Ok(answer);
            };
            let of_object = answer.headers().iter().filter(|(name, _)| name.as_str().starts_with("x-linked-"));
            linked.extend(of_object.map(|(name, value)| (name.clone(), value.clone())));
            parts = redirected(again, &answer)?;
        }
        Err(Failure::Redirect(format!("it was redirected more than {MAX_REDIRECTS} times")))
    }
}

impl Wire {
    /// Sends a request with a body as it is.
    pub(super) async fn execute(&self, request: Request<bytes::Bytes>) -> reqwest::Result<Response> {
        self.client.execute(request.try_into()?).await
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn redirected(mut parts: Parts, answer: &Response) -> Result<Parts, Failure> {
    let from = answer.url();
    let wrong = |words: &str| Failure::Redirect(words.to_owned());
    let location = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
    let to = location.and_then(|to| from.join(to).ok()).ok_or_else(|| wrong("it was redirected to nowhere"))?;
    if !matches!(to.scheme(), "http" | "https") || from.scheme() == "https" && to.scheme() == "http" {
        return Err(wrong("it was redirected to where nothing is encrypted"));
    }
    let origin = |url: &Url| (url.host_str().map(str::to_owned), url.port_or_known_default());
    if origin(from) != origin(&to) {
        parts.headers.remove(AUTHORIZATION);
        parts.headers.remove(COOKIE);
    }
    parts.uri = to.as_str().parse().map_err(|_| wrong("it was redirected to what is no URL"))?;
    Ok(parts)
}

impl Failure {
    pub(crate) fn into_error(self, op: &'static str, name: &str, place: &Place) -> Error {
        match self {
            Self::Redirect(words) => Error::new(ErrorKind::Unavailable, op, name).because(words + &place.at()),
            Self::Request(cause) => transport(op, name, &cause, &place.at()),
        }
    }
}

/// An error of the connection, in words and without the URL, which may hold a signature.
pub(super) fn transport(op: &'static str, name: &str, cause: &reqwest::Error, at: &str) -> Error {
    let (kind, words) = match cause {
        cause if cause.is_connect() => (ErrorKind::Unavailable, "cannot connect"),
        cause if cause.is_timeout() => {
            return Error::new(ErrorKind::Timeout, op, name).because(format_args!("nothing came for too long{at}"));
        }
        cause if cause.is_builder() => (ErrorKind::Invalid, "it cannot be asked for"),
        _ => (ErrorKind::Unavailable, "the connection broke"),
    };
    Error::new(kind, op, name).because(format_args!("{words}{at} ({})", innermost(cause)))
}

/// The words of the first cause.
fn innermost(cause: &reqwest::Error) -> String {
    let mut error: &dyn std::error::Error = cause;
    while let Some(deeper) = error.source() {
        error = deeper;
    }
    super::text::shortened(&error.to_string())
}
