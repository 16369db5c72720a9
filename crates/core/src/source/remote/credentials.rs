//! Chains of credentials: the standard ones of each cloud, through reqsign, and the user's own.
//!
//! A [`Signer`] tries its links in order and stays with what the first one gives until that expires. Which link it was is
//! told in errors and by `headwater doctor`; what it gave never is.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use http::request::Parts;
use parking_lot::{Mutex, RwLock};
use reqsign_core::time::Timestamp;
use reqsign_core::{
    CommandExecute, CommandOutput, Context, FileRead, HttpSend, OsEnv, ProvideCredential, ProvideCredentialDyn,
    SignRequest, SigningCredential,
};

use super::{Transport, Wire, body};
use crate::error::Result;
use crate::source::options::{CredentialsProvider, SourceOptions};

/// Refusals that follow each other this closely are of the same credentials.
const RENEWED_TOGETHER: Duration = Duration::from_secs(1);
/// A token service that does not answer in this time is not there.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(20);
/// A metadata service is on the machine or nowhere: on machines without one, nothing answers at all.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
const METADATA_HOSTS: &[&str] = &["169.254.169.254", "169.254.170.2", "169.254.170.23", "metadata.google.internal"];

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
    pub(crate) fn callable<F>(provider: CredentialsProvider, convert: F) -> Self
    where
        K: Send + Sync + Unpin + 'static,
        F: Fn(&SourceOptions, Option<Timestamp>) -> Result<Option<K>> + Send + Sync + Unpin + 'static,
    {
        Self::new("the function in the source's options", Callable { provider, convert })
    }
}

/// Signs requests with the first credentials there are; or not at all.
pub(crate) struct Signer<K: SigningCredential> {
    inner: Option<Inner<K>>,
}

struct Inner<K: SigningCredential> {
    signer: RwLock<reqsign_core::Signer<K>>,
    renewed: Mutex<Option<Instant>>,
    chain: Chain<K>,
}

impl<K: SigningCredential> Signer<K> {
    /// Signs nothing.
    pub(crate) fn anonymous() -> Self {
        Self { inner: None }
    }

    pub(crate) fn new(
        links: Vec<Link<K>>,
        sign: impl SignRequest<Credential = K>,
        timeouts: &Transport,
    ) -> Result<Self> {
        let context = Context::new()
            .with_env(OsEnv)
            .with_file_read(Files)
            .with_command_execute(Commands)
            .with_http_send(Tokens(Wire::new(timeouts)?));
        let chain = Chain { links: links.into(), used: Arc::default() };
        let signer = RwLock::new(reqsign_core::Signer::new(context, chain.clone(), sign));
        Ok(Self { inner: Some(Inner { signer, renewed: Mutex::new(None), chain }) })
    }

    /// # Errors
    /// Why there are no credentials.
    pub(crate) async fn sign(&self, request: &mut Parts) -> Result<(), String> {
        let Some(inner) = &self.inner else { return Ok(()) };
        let signer = inner.signer.read().clone();
        signer.sign(request, None).await.map_err(|error| super::text::shortened(&error.to_string()))
    }

    /// Asks for new credentials next time; whether there can be any.
    pub(crate) fn renew(&self) -> bool {
        let Some(inner) = &self.inner else { return false };
        // Many requests are refused together: the first of them renews for all.
        let mut renewed = inner.renewed.lock();
        if renewed.is_some_and(|at| at.elapsed() < RENEWED_TOGETHER) {
            return true;
        }
        *renewed = Some(Instant::now());
        let mut signer = inner.signer.write();
        *signer = signer.clone().with_credential_provider(inner.chain.clone());
        true
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
    links: Arc<[Link<K>]>,
    used: Arc<Mutex<Option<&'static str>>>,
}

impl<K> Clone for Chain<K> {
    fn clone(&self) -> Self {
        Self { links: self.links.clone(), used: self.used.clone() }
    }
}

impl<K> Debug for Chain<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.links.iter().map(|link| link.name)).finish()
    }
}

impl<K: SigningCredential> ProvideCredential for Chain<K> {
    type Credential = K;

    async fn provide_credential(&self, context: &Context) -> reqsign_core::Result<Option<K>> {
        let mut failures = Vec::new();
        for link in self.links.iter() {
            match link.provider.provide_credential_dyn(context).await {
                Ok(Some(credential)) => {
                    *self.used.lock() = Some(link.name);
                    return Ok(Some(credential));
                }
                Ok(None) => {}
                Err(error) => failures.push(format!("{}: {}", link.name, reason(&error))),
            }
        }
        let failures = if failures.is_empty() { String::new() } else { format!(" ({})", failures.join("; ")) };
        Err(reqsign_core::Error::credential_invalid(format!("there are no credentials{failures}")))
    }
}

/// The error's own words. Its context may hold answers of token services.
fn reason(error: &reqsign_core::Error) -> String {
    super::text::shortened(&error.to_string())
}

/// The user's function, asked again when what it gave expires.
struct Callable<F> {
    provider: CredentialsProvider,
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
        let failed = |error: crate::Error| reqsign_core::Error::credential_invalid(error.report());
        let given = self.provider.provide().await.map_err(failed)?;
        let expires = given.expires_at.map(|at| {
            let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            Timestamp::from_second(seconds.cast_signed())
        });
        (self.convert)(&given.values, expires.transpose()?).map_err(failed)
    }
}

#[derive(Debug)]
struct Files;

#[allow(clippy::disallowed_methods)] // credentials are kept in files
impl FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            std::fs::read(&path).map_err(|cause| format!("cannot read `{path}`: {cause}"))
        });
        read.await.map_err(|cause| cause.to_string()).flatten().map_err(reqsign_core::Error::config_invalid)
    }
}

#[derive(Debug)]
struct Commands;

impl CommandExecute for Commands {
    async fn command_execute(&self, program: &str, arguments: &[&str]) -> reqsign_core::Result<CommandOutput> {
        let mut command = std::process::Command::new(program);
        command.args(arguments).stdin(std::process::Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = tokio::time::timeout(TOKEN_TIMEOUT, output).await.map_err(|_| format!("`{program}` did not end"));
        let output = output.and_then(|done| done.map_err(|cause| cause.to_string()));
        let output = output.and_then(|ran| ran.map_err(|cause| format!("cannot run `{program}`: {cause}")));
        let output = output.map_err(reqsign_core::Error::config_invalid)?;
        let status = output.status.code().unwrap_or(-1);
        Ok(CommandOutput { status, stdout: output.stdout, stderr: output.stderr })
    }
}

/// Asks token and metadata services.
#[derive(Debug)]
struct Tokens(Wire);

impl HttpSend for Tokens {
    async fn http_send(&self, request: http::Request<Bytes>) -> reqsign_core::Result<http::Response<Bytes>> {
        let failed = reqsign_core::Error::unexpected;
        let host = request.uri().host().unwrap_or_default().to_owned();
        let limit = if METADATA_HOSTS.contains(&&*host) { METADATA_TIMEOUT } else { TOKEN_TIMEOUT };
        let exchange = async {
            let answer = self.0.execute(request).await.map_err(|_| failed(format!("cannot ask {host}")))?;
            let mut response = http::Response::new(Bytes::new());
            *response.status_mut() = answer.status();
            *response.headers_mut() = answer.headers().clone();
            *response.body_mut() = body::collect(answer, &host).await.map_err(|error| failed(error.to_string()))?;
            Ok(response)
        };
        tokio::time::timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(failed(format!("{host} did not answer within {} s", limit.as_secs()))))
    }
}
