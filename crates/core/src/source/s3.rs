//! Amazon S3, and every server that speaks its protocol.
//!
//! Requests, signing and credential chains are `object_store`'s; naming, paging, versions, distrust and error messages are
//! ours. A body goes straight into a pooled buffer. The server is not believed: its entity tag, range and length are
//! compared with what was asked for, since some servers ignore `If-Match` or answer a range with the whole object.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey as Key};
use object_store::client::ClientOptions;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{ClientConfigKey, GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig};

use super::options::without_userinfo;
use super::s3_error::{Access, ended_early};
use super::s3_listing::{PassedOver, Sieving};
use super::{
    Kind, ObjectBytes, ObjectMeta, Page, ReadRequest, Source, SourceOptions, Version, check_key, check_range,
    check_version, unusable,
};
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};

pub(super) const KIND: Kind = Kind {
    schemes: &["s3"],
    example: "s3://bucket/prefix",
    open: |spec| Box::pin(async { Ok(Arc::new(S3::open(&spec.uri, &spec.options).await?) as Arc<dyn Source>) }),
};

/// Options beside `object_store`'s own keys, and what they are called there.
const SHORT_NAMES: &[(&str, &str)] = &[("anonymous", "skip_signature"), ("allow_http", "aws_allow_http")];
/// A server that does not accept a connection in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// No byte for this long means the transfer is dead. The total time is the business of `fetch::deadline`.
const NO_PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// Three more tries over at most half a minute ride out a restarting gateway without hiding an outage.
const RETRIES: usize = 3;
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// A bucket, or a folder in one.
#[derive(Debug)]
pub struct S3 {
    store: AmazonS3,
    /// Folder within the bucket: empty, or ending in a slash.
    prefix: String,
    uri: String,
    access: Arc<Access>,
}

/// One page of a listing.
struct Listed {
    page: Page,
    /// Objects that were left out because of their keys.
    passed_over: u64,
    /// What the next page is asked for with.
    next: Option<String>,
}

impl S3 {
    /// Connects to `s3://bucket/prefix` and asks for one object name, so that a wrong bucket, key or endpoint shows now.
    ///
    /// # Errors
    /// `Invalid` for a URI without bucket or an unknown option, `NotFound`, `Denied`, `Unavailable`.
    pub async fn open(uri: &str, options: &SourceOptions) -> Result<Self> {
        let rest = uri.strip_prefix("s3://").unwrap_or_default();
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(unusable(uri, format_args!("expected s3://bucket/prefix")));
        }
        if let Some(found) = rest.find(['?', '#', '@']) {
            let odd = &rest[found..=found];
            return Err(unusable(uri, format_args!("`{odd}` does not belong in an s3 URI; give options beside it")));
        }
        let prefix = prefix.trim_matches('/');
        let uri = format!("s3://{bucket}/{prefix}").trim_end_matches('/').to_owned();
        let builder = configure(bucket, &uri, options)?;
        let access = Arc::new(Access::new(&uri, &builder, options));
        // Nothing is asked of anyone here: what fails is an option's value.
        let store = builder.build().map_err(|cause| Error::new(ErrorKind::Invalid, "open", &uri).because(cause))?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let source = Self { store, prefix, uri, access };
        source.page("", Some(1), None).await?;
        Ok(source)
    }

    fn path_of(&self, key: &str) -> Result<Path> {
        let key = check_key(&self.uri, key)?;
        Path::parse(format!("{}{key}", self.prefix))
            .map_err(|cause| Error::new(ErrorKind::Invalid, "read", self.uri_of(key)).caused_by(cause))
    }

    async fn page(&self, folder: &str, max: Option<usize>, token: Option<String>) -> Result<Listed> {
        let prefix = format!("{}{folder}", self.prefix);
        let prefix = (!prefix.is_empty()).then_some(prefix.as_str());
        let options = PaginatedListOptions { max_keys: max, page_token: token, ..PaginatedListOptions::default() };
        let listed = self
            .store
            .list_paginated(prefix, options)
            .await
            .map_err(|cause| self.access.error("list", &self.uri, cause))?;
        let relative = |meta: object_store::ObjectMeta| {
            let key = meta.location.as_ref().strip_prefix(&*self.prefix)?.to_owned();
            Some(ObjectMeta { key, size: meta.size, version: version_of(meta.e_tag) })
        };
        let PassedOver(passed_over) = listed.result.extensions.get().copied().unwrap_or_default();
        let page = listed.result.objects.into_iter().filter_map(relative).collect();
        Ok(Listed { page, passed_over, next: listed.page_token })
    }
}

/// A builder with everything but the first request done.
fn configure(bucket: &str, uri: &str, options: &SourceOptions) -> Result<AmazonS3Builder> {
    super::install_tls();
    let client = ClientOptions::new()
        .with_timeout_disabled()
        .with_read_timeout(NO_PROGRESS_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT);
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::from_env()
        .with_client_options(client)
        .with_http_connector(Sieving)
        .with_retry(retry)
        .with_bucket_name(bucket);
    if let Some(endpoint) = builder.get_config_value(&Key::S3Endpoint) {
        builder = builder.with_endpoint(endpoint);
    }
    for (name, value) in options.iter().filter(|(name, _)| *name != "path_style") {
        builder = with_option(builder, uri, name, value)?;
    }
    // From the options or the environment, by whichever of its names.
    let endpoint = builder.get_config_value(&Key::Endpoint);
    if let Some(endpoint) = &endpoint {
        // Whoever writes http:// into the endpoint means it. The second name would win over the first.
        let allowed = if is_plain_http(endpoint)? { builder.with_allow_http(true) } else { builder };
        builder = allowed.with_config(Key::S3Endpoint, endpoint);
    }
    let path_style = options.get("path_style").map(|value| flag("path_style", value)).transpose()?;
    Ok(builder.with_virtual_hosted_style_request(!path_style.unwrap_or(endpoint.is_some())))
}

fn with_option(builder: AmazonS3Builder, uri: &str, name: &str, value: &str) -> Result<AmazonS3Builder> {
    let known = SHORT_NAMES.iter().find(|(short, _)| *short == name).map_or(name, |(_, known)| known);
    let key = Key::from_str(known).map_err(|_| {
        Error::new(ErrorKind::Invalid, "use option", name).because(format_args!(
            "`{uri}` knows endpoint, region, anonymous, path_style, access_key_id, secret_access_key, token, allow_http"
        ))
    })?;
    Ok(match key {
        Key::S3Endpoint => builder.with_endpoint(value),
        Key::SkipSignature | Key::Client(ClientConfigKey::AllowHttp) => {
            builder.with_config(key, flag(name, value)?.to_string())
        }
        key => builder.with_config(key, value),
    })
}

fn flag(name: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(Error::new(ErrorKind::Invalid, "use option", name).because("it is true or false")),
    }
}

/// Whether an endpoint is an `http://` URL; anything but an HTTP URL with a host is refused.
fn is_plain_http(endpoint: &str) -> Result<bool> {
    let parsed = url::Url::parse(endpoint).ok().filter(url::Url::has_host);
    match parsed.as_ref().map(url::Url::scheme) {
        Some("http") => Ok(true),
        Some("https") => Ok(false),
        _ => Err(Error::new(ErrorKind::Invalid, "use endpoint", without_userinfo(endpoint))
            .because("expected a URL like http://host:9000 or https://host")),
    }
}

fn version_of(tag: Option<String>) -> Version {
    tag.map_or(Version::Unknown, Version::ETag)
}

#[async_trait]
impl Source for S3 {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Page>> {
        let folder = if prefix.is_empty() { String::new() } else { format!("{}/", prefix.trim_end_matches('/')) };
        // The state is the token of the next page and the count so far; the outer `None` ends the stream after the last.
        stream::unfold(Some((folder, None, 0)), move |state| async move {
            let (folder, token, passed_over) = state?;
            match self.page(&folder, None, token).await {
                Ok(listed) => {
                    let passed_over = passed_over + listed.passed_over;
                    if listed.next.is_none() && passed_over > 0 {
                        self.warn_of(passed_over);
                    }
                    Some((Ok(listed.page), listed.next.map(|token| (folder, Some(token), passed_over))))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let path = self.path_of(key)?;
        let meta =
            self.store.head(&path).await.map_err(|cause| self.access.error("look at", &self.uri_of(key), cause))?;
        Ok(ObjectMeta { key: key.to_owned(), size: meta.size, version: version_of(meta.e_tag) })
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let name = self.uri_of(&request.key);
        let path = self.path_of(&request.key)?;
        if let Some(range) = request.range.as_ref().filter(|range| range.start >= range.end) {
            // No HTTP range is empty: only the version and size can be asked for.
            let meta = self.head(&request.key).await?;
            check_version(&name, &request.version, &meta.version)?;
            check_range(&name, Some(range), meta.size)?;
            return Ok(ObjectBytes { bytes: bytes::Bytes::new(), meta });
        }
        let mut options = GetOptions { range: request.range.clone().map(GetRange::Bounded), ..GetOptions::default() };
        if let Version::ETag(tag) = &request.version {
            options.if_match = Some(tag.clone());
        }
        let answer = match self.store.get_opts(&path, options).await {
            Ok(answer) => answer,
            Err(cause) => return Err(self.explain(request, &name, cause).await),
        };
        let version = version_of(answer.meta.e_tag.clone());
        let meta = ObjectMeta { key: request.key.clone(), size: answer.meta.size, version };
        check_version(&name, &request.version, &meta.version)?;
        let range = check_range(&name, request.range.as_ref(), meta.size)?;
        if answer.range != range {
            return Err(Error::new(ErrorKind::Unavailable, "read", &name)
                .because(format_args!("asked for bytes {range:?}, the server sent {:?}", answer.range)));
        }
        let mut buffer = buffers.take((range.end - range.start) as usize);
        let mut filled = 0;
        let mut body = answer.into_stream();
        while let Some(chunk) = body.next().await {
            let chunk = match chunk {
                Err(cause) if ended_early(&cause) => break,
                chunk => chunk.map_err(|cause| self.access.error("read", &name, cause))?,
            };
            let Some(slot) = buffer.get_mut(filled..filled + chunk.len()) else {
                return Err(wrong_length(&name, buffer.len()).because("it went on after that"));
            };
            slot.copy_from_slice(&chunk);
            filled += chunk.len();
        }
        if filled != buffer.len() {
            return Err(wrong_length(&name, buffer.len()).because(format_args!("it ended after {filled}")));
        }
        Ok(ObjectBytes { bytes: buffer.freeze(), meta })
    }
}

impl S3 {
    fn warn_of(&self, passed_over: u64) {
        tracing::warn!(
            "passed over {passed_over} objects of `{}`: their keys have an empty, `.` or `..` component, or a control character",
            self.uri
        );
    }

    /// A refused range is told from other refusals by the object's size: servers do not agree on how they say it.
    async fn explain(&self, request: &ReadRequest, name: &str, cause: object_store::Error) -> Error {
        if request.range.is_some()
            && matches!(cause, object_store::Error::Generic { .. })
            && let Ok(meta) = self.head(&request.key).await
            && let Err(error) = check_range(name, request.range.as_ref(), meta.size)
        {
            return error;
        }
        self.access.error("read", name, cause)
    }
}

fn wrong_length(name: &str, expected: usize) -> Error {
    Error::new(ErrorKind::Unavailable, "read", name).because(format_args!("the body should have {expected} bytes"))
}
