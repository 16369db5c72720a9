//! A token in a header: what the Hub and plain HTTP take for credentials.

use std::fmt::{self, Debug};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::Transport;
use super::credentials::provided;
use super::kept::{Kept, Missing};
use crate::error::Result;
use crate::source::options::CredentialsProvider;
use crate::source::unusable;

/// A bearer token, a user and password, or neither.
pub(crate) struct Token {
    name: &'static str,
    kind: Kind,
}

enum Kind {
    None,
    /// The header's value.
    Fixed(HeaderValue),
    Callable {
        provider: CredentialsProvider,
        limit: Duration,
        /// With when it expires.
        kept: Kept<(HeaderValue, Option<SystemTime>)>,
    },
}

impl Token {
    pub(crate) fn none() -> Self {
        Self { name: "none (anonymous)", kind: Kind::None }
    }

    /// No credentials either, and how to give some.
    pub(crate) fn missing(hint: &'static str) -> Self {
        Self { name: hint, kind: Kind::None }
    }

    /// A bearer token of the source at `uri`.
    ///
    /// # Errors
    /// `Invalid` where headers cannot hold it: without it, requests would be anonymous.
    pub(crate) fn fixed(uri: &str, name: &'static str, token: &str) -> Result<Self> {
        let value = bearer(token).ok_or_else(|| {
            unusable(uri, format_args!("{name} has a character that headers cannot have, a line break perhaps"))
        })?;
        Ok(Self { name, kind: Kind::Fixed(value) })
    }

    /// A user and password.
    pub(crate) fn basic(name: &'static str, user: &str, password: &str) -> Self {
        let pair = reqsign_core::hash::base64_encode(format!("{user}:{password}").as_bytes());
        Self { name, kind: secret(&format!("Basic {pair}")).map_or(Kind::None, Kind::Fixed) }
    }

    /// Whatever `token` the user's function returns.
    pub(crate) fn callable(provider: CredentialsProvider, timeouts: &Transport) -> Self {
        let kind = Kind::Callable { provider, limit: timeouts.credentials, kept: Kept::new() };
        Self { name: "the function in the source's options", kind }
    }

    /// When the token was given, if there can be another.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn authorize(&self, request: &mut Parts) -> Result<Option<Instant>, Missing> {
        let (value, given) = match &self.kind {
            Kind::None => return Ok(None),
            Kind::Fixed(value) => (value.clone(), None),
            Kind::Callable { provider, limit, kept } => {
                let is_fresh = |(_, until): &(_, Option<SystemTime>)| until.is_none_or(|at| at > SystemTime::now());
                let ((value, _), given) = kept.get(is_fresh, is_fresh, || asked(provider, *limit)).await?;
                (value, Some(given))
            }
        };
        request.headers.insert(AUTHORIZATION, value);
        Ok(given)
    }

    /// Asks for another one than was given then.
    pub(crate) fn renew(&self, given: Instant) {
        if let Kind::Callable { kept, .. } = &self.kind {
            kept.forget(given);
        }
    }

    pub(crate) fn described(&self) -> String {
        self.name.to_owned()
    }
}

impl Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Token").field(&self.name).finish()
    }
}

async fn asked(provider: &CredentialsProvider, limit: Duration) -> Result<(HeaderValue, Option<SystemTime>), Missing> {
    let given = provided(provider, limit).await?;
    let token = given.values.get("token");
    let token = token.ok_or_else(|| Missing::for_good("the function returned no `token`"))?;
    let wrong = || Missing::for_good("the token has a character that headers cannot have");
    Ok((bearer(token).ok_or_else(wrong)?, given.expires_at))
}

fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
