//! Chains of credentials: the standard ones of each cloud, through reqsign, and the user's own.
//!
//! A [`Signer`] tries its links in order and stays with what the first one gives until that expires. Which link it was is
//! told in errors and by `headwater doctor`; what it gave never is.
//!
//! A link fails in a way that may pass when whom it asks cannot be reached, does not answer in time or answers 408, 429 or 5xx,
//! when its command fails or does not end, and when its function raises. The chain ends there, as `Unavailable`, and is tried
//! again by the policies: links further down would give somebody else's credentials. Any other failure is for good. Then the
//! next link is tried, and where none has credentials, that is `Denied`.
//!
//! Metadata services and the Azure CLI are asked without anybody having named them. Most machines have none, so their silence
//! means just that, until they have given credentials once.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::sync::Mutex;
use http::request::Parts;
use reqsign_core::time::Timestamp;
use reqsign_core::{
    Context, OsEnv, ProvideCredential, ProvideCredentialDyn, SignRequest, SignRequestDyn, SigningCredential,
};

use super::Transport;
use super::kept::{Kept, Missing};
use super::outside::{Outside, Trouble, Watch};
use crate::error::Result;
use crate::source::options::{Credentials, CredentialsProvider, SourceOptions};

/// One place where credentials may come from, and what it is called.
pub(crate) struct Link<K> {
    pub(crate) name: &'static str,
    pub(crate) provider: Arc<dyn ProvideCredentialDyn<Credential = K>>,
}

impl<K> Link<K> {
    pub(crate) fn new(name: &'static str, provider: impl ProvideCredential<Credential = K>) -> Self
    where
        K: Send + Sync + Unpin + 'static,
    {
        Self { name, provider: Arc::new(provider) }
    }

    /// The user's function; `convert` makes a credential of what it returned and of when that expires.
    pub(crate) fn callable<F>(provider: CredentialsProvider, timeouts: &Transport, convert: F) -> Self
    where
        K: Send + Sync + Unpin + 'static,
        F: Fn(&SourceOptions, Option<Timestamp>) -> Result<Option<K>> + Send + Sync + Unpin + 'static,
    {
        let provider = Callable { provider, limit: timeouts.credentials, convert };
        Self::new("the function in the source's options", provider)
    }
}

/// Signs requests with the first credentials there are; or not at all.
pub(crate) struct Signer<K: SigningCredential> {
    inner: Option<Inner<K>>,
}

struct Inner<K: SigningCredential> {
    sign: Arc<dyn SignRequestDyn<Credential = K>>,
    chain: Chain<K>,
    kept: Kept<K>,
}

impl<K: SigningCredential> Signer<K> {
    /// Signs nothing.
    pub(crate) fn anonymous() -> Self {
        Self { inner: None }
    }

    pub(crate) fn new(links: Vec<Link<K>>, sign: impl SignRequest<Credential = K>, timeouts: &Transport) -> Self {
        let chain = Chain { links, used: Mutex::new(None), outside: Outside::new(timeouts) };
        Self { inner: Some(Inner { sign: Arc::new(sign), chain, kept: Kept::new() }) }
    }

    /// When the credentials were given that it signs with, if there can be others.
    ///
    /// # Errors
    /// Why there are no credentials.
    pub(crate) async fn sign(&self, request: &mut Parts) -> Result<Option<Instant>, Missing> {
        let Some(inner) = &self.inner else { return Ok(None) };
        let is_usable = |credential: &K| credential.is_valid_at(inner.sign.required_valid_until_dyn(credential, None));
        let is_fresh = |credential: &K| credential.is_valid() && is_usable(credential);
        let (credential, given) = inner.kept.get(is_fresh, is_usable, || inner.chain.provide()).await?;
        if !is_usable(&credential) {
            return Err(Missing::for_now(format!("{}: what it gave has expired already", self.described())));
        }
        let context = Context::new().with_env(OsEnv);
        let signed = inner.sign.sign_request_dyn(&context, request, Some(&credential), None).await;
        signed.map(|()| Some(given)).map_err(|error| Missing::for_good(reason(&error)))
    }

    /// Asks for other credentials than those that were given then.
    pub(crate) fn renew(&self, given: Instant) {
        if let Some(inner) = &self.inner {
            inner.kept.forget(given);
        }
    }

    /// Where the credentials came from, or might have come from.
    pub(crate) fn described(&self) -> String {
        let Some(inner) = &self.inner else { return "none (anonymous)".to_owned() };
        match *inner.chain.used.lock() {
            Some(name) => name.to_owned(),
            None => inner.chain.links.iter().map(|link| link.name).collect::<Vec<_>>().join(", then "),
        }
    }
}

impl<K: SigningCredential> Debug for Signer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.described()).finish()
    }
}

/// Links in order.
struct Chain<K> {
    links: Vec<Link<K>>,
    used: Mutex<Option<&'static str>>,
    outside: Arc<Outside>,
}

impl<K: SigningCredential> Chain<K> {
    async fn provide(&self) -> Result<K, Missing> {
        let mut failures = Vec::new();
        for link in &self.links {
            let watch = Watch::new(*self.used.lock() == Some(link.name));
            let context = self.outside.context(&watch);
            let failure = match link.provider.provide_credential_dyn(&context).await {
                Ok(Some(credential)) => {
                    *self.used.lock() = Some(link.name);
                    return Ok(credential);
                }
                Ok(None) => None,
                Err(error) => Some(error),
            };
            let words = failure.as_ref().map(reason);
            match (watch.trouble(), words) {
                (Trouble::MayPass(seen), Some(words)) if words != seen => {
                    return Err(Missing::for_now(format!("{}: {words} ({seen})", link.name)));
                }
                (Trouble::MayPass(seen), _) => return Err(Missing::for_now(format!("{}: {seen}", link.name))),
                // Services that throttle say so in other ways than by their status, too.
                (Trouble::None, Some(words)) if failure.is_some_and(|error| error.is_retryable()) => {
                    return Err(Missing::for_now(format!("{}: {words}", link.name)));
                }
                (_, Some(words)) => failures.push(format!("{}: {words}", link.name)),
                (_, None) => {}
            }
        }
        let failures = if failures.is_empty() { String::new() } else { format!(" ({})", failures.join("; ")) };
        Err(Missing::for_good(format!("there are no credentials{failures}")))
    }
}

/// The error's own words. Its context may hold answers of token services.
fn reason(error: &reqsign_core::Error) -> String {
    super::text::shortened(&error.to_string())
}

/// What a user's function gives within a time.
pub(super) async fn provided(provider: &CredentialsProvider, limit: Duration) -> Result<Credentials, Missing> {
    match tokio::time::timeout(limit, provider.provide()).await {
        Ok(given) => given.map_err(|error| Missing { words: error.report(), may_pass: error.is_transient() }),
        Err(_) => Err(Missing::for_now(format!("the function did not return within {} s", limit.as_secs_f32()))),
    }
}

/// The user's function, asked again when what it gave expires.
struct Callable<F> {
    provider: CredentialsProvider,
    limit: Duration,
    convert: F,
}

impl<F> Debug for Callable<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.provider.fmt(f)
    }
}

impl<K, F> ProvideCredential for Callable<F>
where
    K: Send + Sync + Unpin + 'static,
    F: Fn(&SourceOptions, Option<Timestamp>) -> Result<Option<K>> + Send + Sync + Unpin + 'static,
{
    type Credential = K;

    async fn provide_credential(&self, _: &Context) -> reqsign_core::Result<Option<K>> {
        let failed = |words: String| reqsign_core::Error::credential_invalid(words);
        let given = provided(&self.provider, self.limit).await;
        let given = given.map_err(|missing| failed(missing.words).set_retryable(missing.may_pass))?;
        let expires = given.expires_at.map(|at| {
            let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            Timestamp::from_second(seconds.cast_signed())
        });
        (self.convert)(&given.values, expires.transpose()?).map_err(|error| failed(error.report()))
    }
}
