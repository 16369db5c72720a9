//! Google Cloud Storage, through its JSON API.
//!
//! Of its two APIs this one tells generations and checksums in listings, and is the one that other servers have; the XML one
//! would be a second S3. A version is an object's generation: a number that every write raises.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use http::request::Parts;
use http::{HeaderMap, Method};
use reqsign_core::{Context, ProvideCredential};
use reqsign_google::{
    Credential, EnvCredentialProvider, FileCredentialProvider, RequestSigner, ServiceAccountTokenCredentialProvider,
    StaticCredentialProvider, TokenCredentialProvider, VmMetadataCredentialProvider, WellKnownCredentialProvider,
};
use serde::Deserialize;

use super::options::{Known, env};
use super::remote::credentials::{Link, Signer};
use super::remote::request::{bucket_and_prefix, http_url, request};
use super::remote::{
    Algorithm, Answer, Asked, Digest, Missing, Parsed, Place, Protocol, Remote, Transport, Wire, text,
};
use super::{Kind, Probe, Source, SourceOptions, SourceSpec, Version};
use crate::error::{Error, ErrorKind, Result};

pub(super) const KIND: Kind = Kind {
    name: "Google Cloud Storage",
    schemes: &["gs"],
    example: "gs://bucket/prefix",
    is_written: true,
    open: |spec, transport| Box::pin(open(spec, transport)),
    probe: |spec, transport| Box::pin(async { Probe::of(prepare(spec, transport)?) }),
};

const OPTIONS: &[Known] = &[
    ("endpoint", &["google_base_url", "base_url"]),
    ("anonymous", &["skip_signature", "google_skip_signature"]),
    ("token", &["google_token", "access_token"]),
    (
        "service_account",
        &[
            "google_service_account",
            "google_service_account_path",
            "service_account_path",
            "google_application_credentials",
            "credentials_path",
        ],
    ),
    ("service_account_key", &["google_service_account_key"]),
    ("user_project", &[]),
    ("allow_http", &["google_allow_http"]),
];
const ENDPOINT: &str = "https://storage.googleapis.com";
const READ: &str = "https://www.googleapis.com/auth/devstorage.read_only";
/// For manifests that are published.
const WRITE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

/// A bucket, or a folder in one.
#[derive(Debug)]
struct Gcs {
    place: Place,
    /// URL of the bucket's objects, without a trailing slash.
    objects_url: String,
    /// URL that objects are written to.
    upload_url: String,
    prefix: String,
    signer: Signer<Credential>,
    /// Of requests that write.
    writer: Signer<Credential>,
    user_project: Option<String>,
    verify: bool,
}

async fn open(spec: &SourceSpec, transport: &Transport) -> Result<Arc<dyn Source>> {
    let protocol = prepare(spec, transport)?;
    Ok(Arc::new(Remote::new(protocol, Wire::new(transport)?).checked(transport).await?))
}

fn prepare(spec: &SourceSpec, transport: &Transport) -> Result<Gcs> {
    let options = spec.options.known(&spec.uri, OPTIONS)?;
    let (bucket, prefix) = bucket_and_prefix(&spec.uri, "gs", "gs://bucket/prefix")?;
    let emulator =
        env(&["STORAGE_EMULATOR_HOST"]).map(|host| if host.contains("://") { host } else { format!("http://{host}") });
    let is_emulated = emulator.is_some() && options.get("endpoint").is_none();
    let endpoint = options.get("endpoint").map(str::to_owned).or(emulator);
    let base = http_url(endpoint.as_deref().unwrap_or(ENDPOINT))?;
    let base = base.as_str().trim_end_matches('/');
    let anonymous = options.is_on("anonymous")? || is_emulated;
    let signer = |scope| if anonymous { Ok(Signer::anonymous()) } else { signer(&options, transport, scope) };
    Ok(Gcs {
        upload_url: format!("{base}/upload/storage/v1/b/{}/o", text::component(bucket)),
        objects_url: format!("{base}/storage/v1/b/{}/o", text::component(bucket)),
        place: Place {
            uri: format!("gs://{bucket}/{prefix}").trim_end_matches('/').to_owned(),
            container: format!("bucket `{bucket}`"),
            endpoint,
        },
        prefix,
        signer: signer(READ)?,
        writer: signer(WRITE)?,
        user_project: options.get("user_project").map(str::to_owned),
        verify: transport.verify,
    })
}

fn signer(options: &SourceOptions, transport: &Transport, scope: &'static str) -> Result<Signer<Credential>> {
    let links = if let Some(provider) = options.credentials()? {
        vec![Link::callable(provider, transport, |values, expires_at| {
            let token = values.known("the credentials", OPTIONS)?.get("token").map(str::to_owned);
            Ok(token.map(|access_token| Credential::with_token(reqsign_google::Token { access_token, expires_at })))
        })]
    } else if let Some(token) = options.get("token") {
        vec![Link::new("the token in the source's options", TokenCredentialProvider::new(token))]
    } else if let Some(key) = options.get("service_account_key") {
        let provider = match key.trim_start().strip_prefix('{') {
            Some(_) => StaticCredentialProvider::new(key),
            None => StaticCredentialProvider::from_base64(key.trim()).map_err(|_| {
                Error::new(ErrorKind::Invalid, "use option", "service_account_key")
                    .because("it is neither a service account's JSON nor that in base64")
            })?,
        };
        let provider = provider.with_scope(scope);
        vec![Link::new("the key in the source's options", Exchanged { provider, scope })]
    } else if let Some(path) = options.get("service_account") {
        let provider = FileCredentialProvider::new(path).with_scope(scope);
        vec![Link::new("the service account file in the source's options", Exchanged { provider, scope })]
    } else {
        let named = EnvCredentialProvider::new().with_scope(scope);
        let well_known = WellKnownCredentialProvider::new().with_scope(scope);
        vec![
            Link::new("GOOGLE_APPLICATION_CREDENTIALS", Exchanged { provider: named, scope }),
            Link::new("gcloud's application default credentials", Exchanged { provider: well_known, scope }),
            Link::new("the metadata server", VmMetadataCredentialProvider::new().with_scope(scope)),
        ]
    };
    Ok(Signer::new(links, RequestSigner::new("storage"), transport))
}

/// Gives a token for the key of a service account: one for all requests. From the key alone, each request would get its own.
#[derive(Debug)]
struct Exchanged<P> {
    provider: P,
    scope: &'static str,
}

impl<P: ProvideCredential<Credential = Credential>> ProvideCredential for Exchanged<P> {
    type Credential = Credential;

    async fn provide_credential(&self, context: &Context) -> reqsign_core::Result<Option<Credential>> {
        let given = self.provider.provide_credential(context).await?;
        match given {
            Some(Credential { service_account: Some(account), token: None, .. }) => {
                let provider = ServiceAccountTokenCredentialProvider::new(account).with_scope(self.scope);
                provider.provide_credential(context).await
            }
            given => Ok(given),
        }
    }
}

/// An object as listings and metadata tell of it.
#[derive(Deserialize)]
struct Item {
    name: String,
    size: String,
    generation: String,
}

#[derive(Deserialize)]
struct ItemPage {
    kind: String,
    #[serde(default)]
    items: Vec<Item>,
    #[serde(default)]
    prefixes: Vec<String>,
    #[serde(rename = "nextPageToken")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Failed {
    error: FailedBody,
}

#[derive(Deserialize)]
struct FailedBody {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    errors: Vec<FailedItem>,
}

#[derive(Deserialize)]
struct FailedItem {
    reason: Option<String>,
}

#[async_trait]
impl Protocol for Gcs {
    fn place(&self) -> &Place {
        &self.place
    }

    fn page(&self, asked: &Asked<'_>) -> Result<Parts> {
        let prefix = format!("{}{}", self.prefix, asked.folder);
        let max = asked.max.unwrap_or(1000).to_string();
        let mut pairs = vec![
            ("prefix", &*prefix),
            ("maxResults", &*max),
            ("fields", "kind,nextPageToken,prefixes,items(name,size,generation)"),
        ];
        pairs.extend(asked.token.map(|token| ("pageToken", token)));
        pairs.extend(asked.is_shallow.then_some(("delimiter", "/")));
        self.request(Method::GET, &format!("{}?{}", self.objects_url, text::query(&pairs)))
    }

    fn parse(&self, _: &Asked<'_>, answer: &Answer) -> Result<Parsed, String> {
        let page: ItemPage = serde_json::from_slice(&answer.body).map_err(|_| text::no_listing(&answer.body))?;
        if page.kind != "storage#objects" {
            return Err(text::no_listing(&answer.body));
        }
        let mut parsed = Parsed::with_next(page.next);
        let folders = page.prefixes.iter().filter_map(|key| key.strip_prefix(&self.prefix));
        folders.for_each(|key| parsed.add_folder(key.to_owned()));
        for item in page.items {
            let Some(key) = item.name.strip_prefix(&self.prefix) else { continue };
            let size = item.size.parse().map_err(|_| text::no_listing(&answer.body))?;
            parsed.add(key, Some(size), Version::ETag(item.generation));
        }
        Ok(parsed)
    }

    fn object(&self, method: Method, key: &str) -> Result<Parts> {
        let name = text::component(&format!("{}{key}", self.prefix));
        self.request(method, &format!("{}/{name}?alt=media", self.objects_url))
    }

    fn put(&self, key: &str) -> Option<Result<Parts>> {
        let name = text::component(&format!("{}{key}", self.prefix));
        Some(self.request(Method::POST, &format!("{}?uploadType=media&name={name}", self.upload_url)))
    }

    fn expect(&self, request: &mut Parts, version: &Version) {
        if let Version::ETag(generation) = version {
            let uri = format!("{}&ifGenerationMatch={}", request.uri, text::component(generation));
            if let Ok(uri) = uri.parse() {
                request.uri = uri;
            }
        }
    }

    fn version(&self, headers: &HeaderMap) -> Version {
        let generation = headers.get("x-goog-generation").and_then(|value| value.to_str().ok());
        generation.map_or(Version::Unknown, |generation| Version::ETag(generation.to_owned()))
    }

    fn digest(&self, headers: &HeaderMap) -> Option<Digest> {
        let hashes = headers.get_all("x-goog-hash").iter().filter(|_| self.verify);
        let mut hashes = hashes.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        let crc = hashes.find_map(|hash| hash.trim().strip_prefix("crc32c="))?;
        Digest::from_base64(Algorithm::Crc32c, crc)
    }

    async fn authorize(&self, request: &mut Parts) -> Result<Option<Instant>, Missing> {
        let hint = "run `gcloud auth application-default login`, or set anonymous = true for a public bucket";
        let signer = if request.method == Method::POST { &self.writer } else { &self.signer };
        signer.sign(request).await.map_err(|missing| missing.hinted(hint))
    }

    fn renew(&self, given: Instant) {
        self.writer.renew(given);
        self.signer.renew(given);
    }

    fn credentials(&self) -> String {
        self.signer.described()
    }

    fn reason(&self, _: &HeaderMap, body: &[u8]) -> (Option<String>, Option<String>) {
        let Ok(Failed { error }) = serde_json::from_slice::<Failed>(body) else { return (None, None) };
        (error.errors.into_iter().find_map(|item| item.reason), error.message.map(|words| text::shortened(&words)))
    }
}

impl Gcs {
    fn request(&self, method: Method, url: &str) -> Result<Parts> {
        match &self.user_project {
            Some(project) => request(method, &format!("{url}&userProject={}", text::component(project))),
            None => request(method, url),
        }
    }
}
