//! What can be told of a source before its place is asked for anything: for whoever looks for what is wrong.
//!
//! The server is the one that the protocol's own first request goes to, so nothing here can disagree with what
//! opening the source would do.

use std::fmt;
use std::path::Path;

use super::options::{env, without_userinfo};
use super::remote::{Asked, Protocol};
use crate::error::{Error, Result};

/// A source that is not open yet.
#[derive(Debug)]
pub struct Probe {
    kind: &'static str,
    place: String,
    server: Option<Server>,
    protocol: Option<Box<dyn Protocol>>,
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Name or address, an IPv6 one without its brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether it is spoken to over TLS.
    pub is_encrypted: bool,
    /// The proxy that the environment puts in between, without the user and password it may have.
    pub proxy: Option<String>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl Probe {
    pub(super) fn local(path: &Path) -> Self {
        Self { kind: "", place: path.display().to_string(), server: None, protocol: None }
    }

    pub(super) fn of(protocol: impl Protocol) -> Result<Self> {
        let place = without_userinfo(&protocol.place().uri);
        let uri = protocol.page(&first_page())?.uri;
        let is_encrypted = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 });
        let proxy = proxy_for(&host, is_encrypted);
        let server = Server { host, port, is_encrypted, proxy };
        Ok(Self { kind: "", place, server: Some(server), protocol: Some(Box::new(protocol)) })
    }

    pub(super) fn named(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    /// What kind of source it is, as people call it.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// What its URI was read as, without any secret.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Where its requests go; `None` for a place on this machine.
    pub fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// What tells this place from others of the same URI ([`Source::endpoint`](super::Source::endpoint)).
    pub fn endpoint(&self) -> Option<&str> {
        self.protocol.as_ref()?.place().endpoint.as_deref()
    }

    /// Finds credentials as a first request would, without sending that, and says in words which ones they are.
    ///
    /// # Errors
    /// `Denied` where there are none, `Unavailable` where that may pass.
    pub async fn credentials(&self) -> Result<String> {
        let Some(protocol) = &self.protocol else { return Ok("none needed".to_owned()) };
        let mut request = protocol.page(&first_page())?;
        match protocol.authorize(&mut request).await {
            Ok(_) => Ok(protocol.credentials()),
            Err(missing) => {
                Err(Error::new(missing.kind(), "find credentials for", &protocol.place().uri).because(missing.words))
            }
        }
    }
}

fn first_page() -> Asked<'static> {
    Asked { max: Some(1), ..Asked::default() }
}

/// The proxy for a host. Ranges of addresses in `NO_PROXY` are left to those who connect: this is for words only.
fn proxy_for(host: &str, is_encrypted: bool) -> Option<String> {
    let own: [&str; 2] = if is_encrypted { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
    let proxy = env(&own).or_else(|| env(&["ALL_PROXY", "all_proxy"]))?;
    let excepted = env(&["NO_PROXY", "no_proxy"]).unwrap_or_default();
    let is_excepted = excepted.split(',').map(|name| name.trim().trim_start_matches('.')).any(|name| {
        name == "*" || name == host || !name.is_empty() && host.strip_suffix(name).is_some_and(|it| it.ends_with('.'))
    });
    (!is_excepted).then(|| without_userinfo(&proxy))
}
