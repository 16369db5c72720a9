//! A token in a header: what the Hub and plain HTTP take for credentials.

use std::fmt::{self, Debug};
use std::time::SystemTime;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::request::Parts;
use tokio::sync::Mutex;

use crate::source::options::CredentialsProvider;

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
        kept: Mutex<Option<(HeaderValue, Option<SystemTime>)>>,
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

    /// A bearer token.
    pub(crate) fn fixed(name: &'static str, token: &str) -> Self {
        Self { name, kind: bearer(token).map_or(Kind::None, Kind::Fixed) }
    }

    /// A user and password.
    pub(crate) fn basic(name: &'static str, user: &str, password: &str) -> Self {
        let pair = reqsign_core::hash::base64_encode(format!("{user}:{password}").as_bytes());
        Self { name, kind: secret(&format!("Basic {pair}")).map_or(Kind::None, Kind::Fixed) }
    }

    /// Whatever `token` the user's function returns.
    pub(crate) fn callable(provider: CredentialsProvider) -> Self {
        Self { name: "the function in the source's options", kind: Kind::Callable { provider, kept: Mutex::new(None) } }
    }

    pub(crate) async fn authorize(&self, request: &mut Parts) -> Result<(), String> {
        let value = match &self.kind {
            Kind::None => return Ok(()),
            Kind::Fixed(value) => value.clone(),
            Kind::Callable { provider, kept } => {
                // Held while the function is asked: the others wait for what it says.
                let mut kept = kept.lock().await;
                let is_fresh = |until: &Option<SystemTime>| until.is_none_or(|until| until > SystemTime::now());
                if let Some((value, _)) = kept.as_ref().filter(|(_, until)| is_fresh(until)) {
                    value.clone()
                } else {
                    let given = provider.provide().await.map_err(|error| error.report())?;
                    let token = given.values.get("token").ok_or("the function returned no `token`")?;
                    let value = bearer(token).ok_or("the token has a character that headers cannot have")?;
                    *kept = Some((value.clone(), given.expires_at));
                    value
                }
            }
        };
        request.headers.insert(AUTHORIZATION, value);
        Ok(())
    }

    /// Asks for another one than was refused next time; whether there can be one.
    pub(crate) fn renew(&self, refused: Option<&HeaderValue>) -> bool {
        let Kind::Callable { kept, .. } = &self.kind else { return false };
        // Whoever holds it is asking for another one.
        if let Ok(mut kept) = kept.try_lock()
            && kept.as_ref().map(|(value, _)| value) == refused
        {
            *kept = None;
        }
        true
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

fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
