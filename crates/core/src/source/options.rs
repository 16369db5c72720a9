//! Which source, and how to reach it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::sync::Mutex;
use futures_util::future::BoxFuture;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};

/// Options whose values are credentials, or contain such a word: never printed, never kept.
const SECRET: &[&str] = &["access_key", "key", "credential"];
const SECRET_WORDS: &[&str] =
    &["access_key", "account_key", "secret", "token", "password", "customer_key", "sas", "service_account_key"];

/// The option that names a function that gives credentials.
const CREDENTIALS: &str = "credentials";

/// Options of several kinds that are true or false.
const FLAGS: &[&str] = &["allow_http", "anonymous", "path_style", "virtual_hosted_style_request"];

/// An option: its name, and others that it is known by elsewhere.
pub(super) type Known = (&'static str, &'static [&'static str]);

/// A source's URI and options. In configuration it is a string, or a table with `uri` and the options beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceSpec {
    /// Where objects are: a path, or a URI whose scheme chooses the kind of source.
    pub uri: String,
    /// How to reach it.
    pub options: SourceOptions,
}

impl SourceSpec {
    /// The URI without the user and password that it may have.
    pub fn shown_uri(&self) -> String {
        without_userinfo(&self.uri)
    }

    /// Whether the URI or an option holds a credential.
    pub fn has_secrets(&self) -> bool {
        self.options.has_secrets() || self.shown_uri() != self.uri
    }
}

impl From<&str> for SourceSpec {
    fn from(uri: &str) -> Self {
        Self { uri: uri.to_owned(), options: SourceOptions::default() }
    }
}

/// Options by name. `Debug` shows the names and the values of those that are no credentials.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SourceOptions {
    values: BTreeMap<String, String>,
}

impl SourceOptions {
    /// The value of an option.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Sets an option. Names are lower-cased.
    pub fn set(&mut self, name: impl AsRef<str>, value: impl Into<String>) {
        self.values.insert(name.as_ref().to_ascii_lowercase(), value.into());
    }

    /// The function that gives credentials, if that is how they are given.
    ///
    /// # Errors
    /// `Invalid` when none is registered under the name that the option `credentials` says.
    pub(super) fn credentials(&self) -> Result<Option<CredentialsProvider>> {
        let Some(name) = self.get(CREDENTIALS) else { return Ok(None) };
        let found = REGISTRY.try_lock_for(REGISTRY_TIMEOUT).ok_or_else(busy)?.get(name).cloned();
        found.map(Some).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "use option", CREDENTIALS)
                .because(format_args!("no function is registered as `{name}` in this process"))
        })
    }

    /// Whether an option that is true or false is true.
    pub(super) fn is_on(&self, name: &str) -> Result<bool> {
        self.get(name).map_or(Ok(false), |value| flag(name, value))
    }

    /// The same under the names that a kind of source knows them by.
    ///
    /// # Errors
    /// `Invalid`, naming the option that is not known and those that are.
    pub(super) fn known(&self, uri: &str, known: &[Known]) -> Result<Self> {
        let mut options = Self::default();
        let is_plain = |text: &str| text.to_ascii_lowercase().starts_with("http://");
        let forbids = self
            .values
            .iter()
            .any(|(name, value)| name.ends_with("allow_http") && flag(name, value).is_ok_and(|allowed| !allowed));
        let endpoint = self.values.iter().find(|(name, _)| name.contains("endpoint")).map_or(uri, |(_, value)| value);
        if forbids && is_plain(endpoint) {
            return Err(Error::new(ErrorKind::Invalid, "use endpoint", without_userinfo(endpoint))
                .because("it is not encrypted, and allow_http = false forbids that"));
        }
        for (name, value) in &self.values {
            if name == CREDENTIALS {
                options.values.insert(name.clone(), value.clone());
                continue;
            }
            let found = known.iter().find(|(known, others)| known == name || others.contains(&name.as_str()));
            let (found, _) = found.ok_or_else(|| {
                let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
                Error::new(ErrorKind::Invalid, "use option", name).because(format_args!(
                    "`{}` knows {}",
                    without_userinfo(uri),
                    names.join(", ")
                ))
            })?;
            if FLAGS.contains(found) {
                flag(name, value)?;
            }
            options.values.insert((*found).to_owned(), value.clone());
        }
        Ok(options)
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether any of them is a credential.
    pub fn has_secrets(&self) -> bool {
        self.values.iter().any(|(name, value)| is_secret(name) || without_userinfo(value) != *value)
    }

    /// The others.
    pub fn without_secrets(&self) -> Self {
        let open = self.values.iter().filter(|(name, _)| !is_secret(name));
        Self { values: open.map(|(name, value)| (name.clone(), without_userinfo(value))).collect() }
    }

    /// These options, and those of `defaults` that are not among them.
    pub fn merged(&self, defaults: &Self) -> Self {
        let mut values = defaults.values.clone();
        values.extend(self.values.clone());
        Self { values }
    }
}

/// Whether an option's value must not be seen.
fn is_secret(name: &str) -> bool {
    SECRET.contains(&name) || SECRET_WORDS.iter().any(|word| name.contains(word))
}

#[allow(clippy::disallowed_methods)] // the chains of the clouds begin there
/// The first of these environment variables that is set to something.
pub(super) fn env(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
}

/// An option that is true or false.
pub(super) fn flag(name: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(Error::new(ErrorKind::Invalid, "use option", name).because("it is true or false")),
    }
}

/// What a user's function returned: credentials by the names of options, and how long they hold.
#[derive(Clone, Default)]
pub struct Credentials {
    /// `access_key_id`, `secret_access_key`, `token`, … as the kind of source knows them.
    pub values: SourceOptions,
    /// When to ask for others. `None`: when these are refused.
    pub expires_at: Option<SystemTime>,
}

impl Credentials {
    /// From `{"values": {…}, "expires_at": seconds since 1970 or null}`.
    ///
    /// # Errors
    /// `Invalid`, without a word of what it says.
    pub fn from_json(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Given {
            values: SourceOptions,
            expires_at: Option<f64>,
        }
        let wrong = || Error::new(ErrorKind::Invalid, "use", "credentials").because("they are no names and values");
        let given: Given = serde_json::from_str(text).map_err(|_| wrong())?;
        let since = given.expires_at.map(Duration::try_from_secs_f64).transpose().map_err(|_| wrong())?;
        Ok(Self { values: given.values, expires_at: since.map(|since| SystemTime::UNIX_EPOCH + since) })
    }
}

/// A user's function that returns credentials, and is asked again when they expire.
#[derive(Clone)]
pub struct CredentialsProvider(Arc<dyn Fn() -> BoxFuture<'static, Result<Credentials>> + Send + Sync>);

impl CredentialsProvider {
    /// Wraps a function. It is called from several threads.
    pub fn new(provide: impl Fn() -> BoxFuture<'static, Result<Credentials>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(provide))
    }

    /// Asks.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn provide(&self) -> Result<Credentials> {
        (self.0)().await
    }
}

impl fmt::Debug for CredentialsProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialsProvider")
    }
}

type Registry = Mutex<BTreeMap<String, CredentialsProvider>>;

/// Functions that give credentials, by the names that the option `credentials` says.
static REGISTRY: Registry = Registry::new(BTreeMap::new());
/// Nobody holds the registry for longer, unless the process was forked while somebody did.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(1);

fn busy() -> Error {
    Error::new(ErrorKind::Timeout, "use", "the register of credentials").because("it stays locked")
}

/// Has the option `credentials = name` of any source ask this function.
///
/// # Errors
/// `Timeout`, in a child that was forked at an unlucky moment.
pub fn register_credentials(name: &str, provider: CredentialsProvider) -> Result<()> {
    REGISTRY.try_lock_for(REGISTRY_TIMEOUT).ok_or_else(busy)?.insert(name.to_owned(), provider);
    Ok(())
}

/// Forgets a function. Sources that are open already go on asking it.
///
/// # Errors
/// `Timeout`, in a child that was forked at an unlucky moment.
pub fn release_credentials(name: &str) -> Result<()> {
    REGISTRY.try_lock_for(REGISTRY_TIMEOUT).ok_or_else(busy)?.remove(name);
    Ok(())
}

/// A URL without the user and password in front of its host, also one whose slashes were forgotten, and without its query, which
/// may be a signature; paths and other values as they are.
pub(crate) fn without_userinfo(value: &str) -> String {
    let is_path = value.starts_with(['/', '.', '~']) || value.starts_with("file:");
    match value.split_once("://") {
        _ if is_path => value.to_owned(),
        Some((scheme, rest)) => {
            let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, _)| (rest, "?***"));
            let rest = userinfo_end(rest).map_or_else(|| rest.to_owned(), |end| format!("***{}", &rest[end..]));
            format!("{scheme}://{rest}{query}")
        }
        None => match value.rsplit_once('@') {
            Some((before, host)) if before.contains(':') => format!("***@{host}"),
            _ => value.to_owned(),
        },
    }
}

/// Where the `@` is behind which the host begins, in a URL without its scheme. One behind the host is of a name or a revision, and
/// `container@account.host` is how Azure writes a place.
fn userinfo_end(rest: &str) -> Option<usize> {
    let authority = rest.split('/').next().unwrap_or_default();
    if let Some(end) = authority.rfind('@') {
        let is_azure = [".dfs.core.windows.net", ".blob.core.windows.net"].iter().any(|host| authority.ends_with(host));
        return (!is_azure || authority[..end].contains(':')).then_some(end);
    }
    // What follows a colon is a port, else a password with a slash in it.
    let (_, port) = authority.split_once(':')?;
    if port.bytes().all(|byte| byte.is_ascii_digit()) { None } else { rest.rfind('@') }
}

impl fmt::Debug for SourceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self
            .values
            .iter()
            .map(|(name, value)| (name, if is_secret(name) { "***".to_owned() } else { without_userinfo(value) }));
        f.debug_map().entries(shown).finish()
    }
}

impl<N: AsRef<str>, V: Into<String>> FromIterator<(N, V)> for SourceOptions {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut options = Self::default();
        pairs.into_iter().for_each(|(name, value)| options.set(name, value));
        options
    }
}

impl Serialize for SourceOptions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.values.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SourceOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let values = BTreeMap::<String, Scalar>::deserialize(deserializer)?;
        Ok(values.into_iter().map(|(name, value)| (name, value.0)).collect())
    }
}

impl Serialize for SourceSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.options.values.is_empty() {
            return serializer.serialize_str(&self.uri);
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("uri", &self.uri)?;
        for (name, value) in self.options.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for SourceSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SpecVisitor)
    }
}

struct SpecVisitor;

impl<'de> Visitor<'de> for SpecVisitor {
    type Value = SourceSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a URI, or a table with `uri` and options")
    }

    fn visit_str<E: de::Error>(self, uri: &str) -> Result<SourceSpec, E> {
        Ok(uri.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SourceSpec, A::Error> {
        let mut uri = None;
        let mut options = SourceOptions::default();
        while let Some((name, Scalar(value))) = map.next_entry::<String, Scalar>()? {
            if name == "uri" {
                uri = Some(value);
            } else {
                options.set(name, value);
            }
        }
        let uri = uri.ok_or_else(|| de::Error::missing_field("uri"))?;
        Ok(SourceSpec { uri, options })
    }
}

/// An option's value as people write it: a string, boolean or number.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a truth value or a number")
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar(text.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
        Ok(Scalar(number.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::without_userinfo;

    #[test]
    fn users_passwords_and_queries_are_hidden_and_nothing_else() {
        for (value, shown) in [
            ("s3://AKIA:hunter2@bucket/x", "s3://***@bucket/x"),
            ("s3:AKIA:hunter2@bucket/x", "***@bucket/x"),
            ("http://u:hun/ter2@host:9000", "http://***@host:9000"),
            ("user:hunter2@127.0.0.1:9000", "***@127.0.0.1:9000"),
            ("http://host:9000", "http://host:9000"),
            ("/data/run:3@home/x", "/data/run:3@home/x"),
            ("file:///data/run@3", "file:///data/run@3"),
            ("run@3", "run@3"),
            ("https://hf_secret@host/x", "https://***@host/x"),
            ("hf://datasets/org/name@main/x", "hf://datasets/org/name@main/x"),
            ("hf://org/name@refs%2Fpr%2F1", "hf://org/name@refs%2Fpr%2F1"),
            ("abfs://box@account.dfs.core.windows.net/x", "abfs://box@account.dfs.core.windows.net/x"),
            ("abfs://box:hunter2@account.dfs.core.windows.net/x", "abfs://***@account.dfs.core.windows.net/x"),
            ("s3://bucket/run@3", "s3://bucket/run@3"),
            ("http://host:9000/run@3", "http://host:9000/run@3"),
            ("http://u:p@host:9000/run@3", "http://***@host:9000/run@3"),
            ("https://account.host/box?sv=1&sig=hunter2", "https://account.host/box?***"),
            ("/data/what?", "/data/what?"),
        ] {
            assert_eq!(without_userinfo(value), shown);
        }
    }
}
