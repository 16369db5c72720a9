//! Azure Blob Storage.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use reqsign_azure_storage::{
    AzureCliCredentialProvider, AzurePipelinesCredentialProvider, ClientCertificateCredentialProvider,
    ClientSecretCredentialProvider, Credential, EnvCredentialProvider, ImdsCredentialProvider, RequestSigner,
    StaticCredentialProvider, WorkloadIdentityCredentialProvider,
};
use reqsign_core::time::Timestamp;

use super::options::{Known, env};
use super::remote::credentials::{Link, Signer};
use super::remote::request::{expect_tag, folder, http_url, quoted, refuse_query, request, tag_in};
use super::remote::{Answer, Asked, Missing, Parsed, Place, Protocol, Remote, Transport, Wire, text};
use super::{Kind, Probe, Source, SourceOptions, SourceSpec, Version, unusable};
use crate::error::{Error, ErrorKind, Result};

pub(super) const KIND: Kind = Kind {
    name: "Azure Blob Storage",
    schemes: &["az", "abfs", "abfss"],
    example: "az://container/prefix",
    is_written: true,
    open: |spec, transport| Box::pin(open(spec, transport)),
    probe: |spec, transport| Box::pin(async { Probe::of(prepare(spec, transport)?) }),
};

const OPTIONS: &[Known] = &[
    ("endpoint", &["azure_storage_endpoint", "azure_endpoint"]),
    ("account", &["account_name", "azure_storage_account_name", "azure_storage_account"]),
    ("anonymous", &["skip_signature", "azure_skip_signature"]),
    ("access_key", &["account_key", "azure_storage_account_key", "azure_storage_access_key", "secret_access_key"]),
    ("sas_token", &["sas_key", "azure_storage_sas_key", "azure_storage_sas_token"]),
    ("token", &["bearer_token", "azure_storage_token"]),
    ("tenant_id", &["azure_storage_tenant_id", "azure_tenant_id"]),
    ("client_id", &["azure_storage_client_id", "azure_client_id"]),
    ("client_secret", &["azure_storage_client_secret", "azure_client_secret"]),
    ("allow_http", &["azure_allow_http"]),
];
const API_VERSION: &str = "2021-12-02";

/// A container, or a folder in one.
#[derive(Debug)]
struct Azure {
    place: Place,
    /// URL of the container, without a trailing slash.
    container_url: String,
    prefix: String,
    signer: Signer<Credential>,
}

async fn open(spec: &SourceSpec, transport: &Transport) -> Result<Arc<dyn Source>> {
    let protocol = prepare(spec, transport)?;
    Ok(Arc::new(Remote::new(protocol, Wire::new(transport)?).checked(transport).await?))
}

fn prepare(spec: &SourceSpec, transport: &Transport) -> Result<Azure> {
    let options = spec.options.known(&spec.uri, OPTIONS)?;
    let (container, account_in_uri, prefix) = parse(&spec.uri)?;
    let named = account_in_uri.map(str::to_owned).or_else(|| options.get("account").map(str::to_owned));
    let account = named.or_else(|| env(&["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"]));
    let endpoint = options.get("endpoint").map(str::to_owned).or_else(|| env(&["AZURE_STORAGE_ENDPOINT"]));
    let base = match (&endpoint, &account) {
        (Some(endpoint), _) => http_url(endpoint)?,
        (None, Some(account)) => http_url(&format!("https://{account}.blob.core.windows.net"))?,
        (None, None) => {
            let words = "which account? Write abfs://container@account.dfs.core.windows.net/prefix, give the option \
                         `account`, or set AZURE_STORAGE_ACCOUNT_NAME";
            return Err(unusable(&spec.uri, format_args!("{words}")));
        }
    };
    // One container's URI means another place for every account.
    let endpoint = Some(endpoint.unwrap_or_else(|| base.as_str().trim_end_matches('/').to_owned()));
    Ok(Azure {
        place: Place {
            uri: spec.uri.trim_end_matches('/').to_owned(),
            container: format!("container `{container}`"),
            endpoint,
        },
        container_url: format!("{}/{}", base.as_str().trim_end_matches('/'), text::component(container)),
        prefix,
        signer: signer(&options, account.as_deref(), transport)?,
    })
}

/// `az://container/prefix` or `abfs://container@account.dfs.core.windows.net/prefix`: container, account, prefix.
fn parse(uri: &str) -> Result<(&str, Option<&str>, String)> {
    let expected = "expected az://container/prefix or abfs://container@account.dfs.core.windows.net/prefix";
    let wrong = || unusable(uri, format_args!("{expected}"));
    let (_, rest) = uri.split_once("://").ok_or_else(wrong)?;
    let (place, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let (container, account) = match place.split_once('@') {
        None => (place, None),
        Some((container, host)) => {
            let account = host.strip_suffix(".dfs.core.windows.net").or(host.strip_suffix(".blob.core.windows.net"));
            (container, Some(account.ok_or_else(wrong)?))
        }
    };
    if container.is_empty() || container.contains(':') {
        return Err(wrong());
    }
    refuse_query(uri, prefix)?;
    Ok((container, account, folder(prefix)))
}

fn signer(options: &SourceOptions, account: Option<&str>, transport: &Transport) -> Result<Signer<Credential>> {
    if options.is_on("anonymous")? {
        return Ok(Signer::anonymous());
    }
    let links = if let Some(provider) = options.credentials()? {
        let account = account.map(str::to_owned);
        vec![Link::callable(provider, transport, move |values, expires| {
            Ok(given(&values.known("the credentials", OPTIONS)?, account.as_deref(), expires))
        })]
    } else if let Some(key) = options.get("access_key") {
        let account = account.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "use option", "access_key").because("give `account` beside it")
        })?;
        vec![Link::new("the key in the source's options", StaticCredentialProvider::new_shared_key(account, key))]
    } else if let Some(token) = options.get("sas_token") {
        let token = token.trim_start_matches('?');
        vec![Link::new("the SAS token in the source's options", StaticCredentialProvider::new_sas_token(token))]
    } else if let Some(token) = options.get("token") {
        vec![Link::new("the token in the source's options", StaticCredentialProvider::new_bearer_token(token))]
    } else if let Some(secret) = options.get("client_secret") {
        let (tenant, client) = (options.get("tenant_id"), options.get("client_id"));
        let (Some(tenant), Some(client)) = (tenant, client) else {
            return Err(Error::new(ErrorKind::Invalid, "use option", "client_secret")
                .because("give `tenant_id` and `client_id` beside it"));
        };
        let provider = ClientSecretCredentialProvider::new().with_tenant_id(tenant).with_client_id(client);
        vec![Link::new("the service principal in the source's options", provider.with_client_secret(secret))]
    } else if let (Some(account), Some(key)) = (account, env(&["AZURE_STORAGE_ACCOUNT_KEY"])) {
        // The account may be named by the place, and the key alone by the environment.
        let provider = StaticCredentialProvider::new_shared_key(account, &key);
        vec![Link::new("AZURE_STORAGE_ACCOUNT_KEY of the environment", provider)]
    } else {
        vec![
            Link::new(
                "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN of the environment",
                EnvCredentialProvider::new(),
            ),
            Link::new("the service principal of the environment", ClientSecretCredentialProvider::new()),
            Link::new("the service principal's certificate", ClientCertificateCredentialProvider::new()),
            Link::new("workload identity", WorkloadIdentityCredentialProvider::new()),
            Link::new("Azure Pipelines", AzurePipelinesCredentialProvider::new()),
            Link::new("the Azure CLI", AzureCliCredentialProvider::new()),
            Link::new("managed identity", ImdsCredentialProvider::new()),
        ]
    };
    Ok(Signer::new(links, RequestSigner::new(), transport))
}

/// What a user's function returned.
fn given(options: &SourceOptions, account: Option<&str>, expires: Option<Timestamp>) -> Option<Credential> {
    if let Some(token) = options.get("sas_token") {
        let token = token.trim_start_matches('?');
        return Some(match expires {
            Some(at) => Credential::with_sas_token_expires_at(token, at),
            None => Credential::with_sas_token(token),
        });
    }
    match (options.get("token"), options.get("access_key"), account) {
        (Some(token), ..) => Some(Credential::with_bearer_token(token, expires)),
        (None, Some(key), Some(account)) => Some(Credential::with_shared_key(account, key)),
        _ => None,
    }
}

#[async_trait]
impl Protocol for Azure {
    fn place(&self) -> &Place {
        &self.place
    }

    fn page(&self, asked: &Asked<'_>) -> Result<Parts> {
        let prefix = format!("{}{}", self.prefix, asked.folder);
        let max = asked.max.map(|max| max.to_string());
        let mut pairs = vec![("restype", "container"), ("comp", "list"), ("prefix", &*prefix)];
        pairs.extend(max.as_deref().map(|max| ("maxresults", max)));
        pairs.extend(asked.token.map(|token| ("marker", token)));
        pairs.extend(asked.is_shallow.then_some(("delimiter", "/")));
        versioned(Method::GET, &format!("{}?{}", self.container_url, text::query(&pairs)))
    }

    fn parse(&self, _: &Asked<'_>, answer: &Answer) -> Result<Parsed, String> {
        let mut next = None;
        let (mut objects, mut object) = (Vec::new(), (String::new(), None, None));
        let (mut folders, mut is_folder) = (Vec::new(), false);
        text::walk_xml(&answer.body, "EnumerationResults", |open, words| match open {
            [_, name] if name == "NextMarker" => next = Some(words.to_owned()).filter(|next| !next.is_empty()),
            [_, _, blob] if blob == "Blob" => {
                let object = std::mem::take(&mut object);
                if !std::mem::take(&mut is_folder) {
                    objects.push(object);
                }
            }
            [_, _, parent, name] if parent == "BlobPrefix" && name == "Name" => folders.push(words.to_owned()),
            [_, _, _, name] if name == "Name" => words.clone_into(&mut object.0),
            [_, _, _, _, name] => match name.as_str() {
                "Content-Length" => object.1 = words.parse::<u64>().ok(),
                "Etag" => object.2 = Some(quoted(words)),
                "ResourceType" => is_folder = words == "directory",
                _ => {}
            },
            _ => {}
        })?;
        let mut parsed = Parsed::with_next(next);
        folders
            .iter()
            .filter_map(|key: &String| key.strip_prefix(&self.prefix))
            .for_each(|key| parsed.add_folder(key.to_owned()));
        for (key, size, tag) in objects {
            let Some(key) = key.strip_prefix(&self.prefix) else { continue };
            let size = size.ok_or_else(|| text::no_listing(&answer.body))?;
            parsed.add(key, Some(size), tag.map_or(Version::Unknown, Version::ETag));
        }
        Ok(parsed)
    }

    fn object(&self, method: Method, key: &str) -> Result<Parts> {
        versioned(method, &format!("{}/{}{}", self.container_url, text::path(&self.prefix), text::path(key)))
    }

    fn put(&self, key: &str) -> Option<Result<Parts>> {
        Some(self.object(Method::PUT, key).map(|mut parts| {
            parts.headers.insert("x-ms-blob-type", HeaderValue::from_static("BlockBlob"));
            parts
        }))
    }

    fn expect(&self, request: &mut Parts, version: &Version) {
        expect_tag(request, version);
    }

    fn version(&self, headers: &HeaderMap) -> Version {
        match tag_in(headers) {
            Version::ETag(tag) => Version::ETag(quoted(&tag)),
            other => other,
        }
    }

    async fn authorize(&self, request: &mut Parts) -> Result<Option<Instant>, Missing> {
        let hint = "run `az login`, set AZURE_STORAGE_ACCOUNT_KEY, or anonymous = true for a public container";
        self.signer.sign(request).await.map_err(|missing| missing.hinted(hint))
    }

    fn renew(&self, given: Instant) {
        self.signer.renew(given);
    }

    fn credentials(&self) -> String {
        self.signer.described()
    }

    fn reason(&self, headers: &HeaderMap, body: &[u8]) -> (Option<String>, Option<String>) {
        let (code, words) = text::xml_reason(body);
        let in_header = headers.get("x-ms-error-code").and_then(|code| code.to_str().ok()).map(str::to_owned);
        (in_header.or(code), words)
    }
}

fn versioned(method: Method, url: &str) -> Result<Parts> {
    let mut parts = request(method, url)?;
    parts.headers.insert("x-ms-version", HeaderValue::from_static(API_VERSION));
    Ok(parts)
}
