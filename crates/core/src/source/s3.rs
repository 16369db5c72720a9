//! Amazon S3, and every server that speaks its protocol.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use reqsign_aws_v4::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider, EnvCredentialProvider,
    IMDSv2CredentialProvider, ProcessCredentialProvider, ProfileCredentialProvider, RequestSigner,
    SSOCredentialProvider, StaticCredentialProvider,
};

use super::options::{Known, env, flag};
use super::remote::credentials::{Link, Signer};
use super::remote::request::{bucket_and_prefix, expect_tag, http_url, quoted, request, tag_in};
use super::remote::{
    Answer, Asked, Digest, Missing, Parsed, Place, Protocol, Remote, Transport, Wire, header_value, text,
};
use super::{Kind, Probe, Source, SourceOptions, SourceSpec, Version};
use crate::error::{Error, ErrorKind, Result};

pub(super) const KIND: Kind = Kind {
    name: "S3",
    schemes: &["s3"],
    example: "s3://bucket/prefix",
    is_written: true,
    open: |spec, transport| Box::pin(open(spec, transport)),
    probe: |spec, transport| Box::pin(async { Probe::of(prepare(spec, transport).await?) }),
};

const OPTIONS: &[Known] = &[
    ("endpoint", &["aws_endpoint", "aws_endpoint_url", "aws_endpoint_url_s3", "endpoint_url"]),
    ("region", &["aws_region", "aws_default_region", "default_region", "region_name"]),
    ("anonymous", &["skip_signature", "aws_skip_signature"]),
    ("path_style", &[]),
    ("profile", &["aws_profile"]),
    ("access_key_id", &["aws_access_key_id"]),
    ("secret_access_key", &["aws_secret_access_key"]),
    ("token", &["session_token", "aws_session_token", "aws_token"]),
    ("request_payer", &["aws_request_payer"]),
    ("virtual_hosted_style_request", &["aws_virtual_hosted_style_request"]),
    ("allow_http", &["aws_allow_http"]),
];
/// Where a server does not care.
const DEFAULT_REGION: &str = "us-east-1";

/// A bucket, or a folder in one.
#[derive(Debug)]
struct S3 {
    place: Place,
    /// URL of the bucket, without a trailing slash.
    bucket_url: String,
    /// Folder within the bucket: empty, or ending in a slash.
    prefix: String,
    signer: Signer<Credential>,
    request_payer: bool,
    verify: bool,
}

async fn open(spec: &SourceSpec, transport: &Transport) -> Result<Arc<dyn Source>> {
    let protocol = prepare(spec, transport).await?;
    Ok(Arc::new(Remote::new(protocol, Wire::new(transport)?).checked(transport).await?))
}

async fn prepare(spec: &SourceSpec, transport: &Transport) -> Result<S3> {
    let options = spec.options.known(&spec.uri, OPTIONS)?;
    let (bucket, prefix) = bucket_and_prefix(&spec.uri, "s3", "s3://bucket/prefix")?;
    let endpoint = options
        .get("endpoint")
        .map(str::to_owned)
        .or_else(|| env(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]));
    let profile = options.get("profile").map(str::to_owned).or_else(|| env(&["AWS_PROFILE"]));
    let region = options.get("region").map(str::to_owned).or_else(|| env(&["AWS_REGION", "AWS_DEFAULT_REGION"]));
    let region = match region {
        Some(region) => region,
        None => region_of(profile.as_deref().unwrap_or("default")).await.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
    };
    let bucket_url = bucket_url(bucket, endpoint.as_deref(), &region, &options)?;
    let uri = format!("s3://{bucket}/{prefix}").trim_end_matches('/').to_owned();
    Ok(S3 {
        place: Place { uri, container: format!("bucket `{bucket}`"), endpoint },
        bucket_url,
        prefix,
        signer: signer(&options, profile, &region, transport)?,
        request_payer: options.get("request_payer").is_some_and(|value| flag("request_payer", value).unwrap_or(true)),
        verify: transport.verify,
    })
}

/// Servers of one's own are asked in path style, unless told otherwise; Amazon's own is asked by the bucket's name.
fn bucket_url(bucket: &str, endpoint: Option<&str>, region: &str, options: &SourceOptions) -> Result<String> {
    let virtual_hosted =
        options.get("virtual_hosted_style_request").map(|value| flag("path_style", value)).transpose()?;
    let path_style = match options.get("path_style").map(|value| flag("path_style", value)).transpose()? {
        Some(path_style) => path_style,
        // A dot in the name would not match the server's certificate.
        None => virtual_hosted.map_or(endpoint.is_some() || bucket.contains('.'), |hosted| !hosted),
    };
    let base = match endpoint {
        Some(endpoint) => http_url(endpoint)?,
        None => http_url(&format!("https://s3.{region}.amazonaws.com"))?,
    };
    let base = base.as_str().trim_end_matches('/');
    if path_style {
        return Ok(format!("{base}/{}", text::component(bucket)));
    }
    let (scheme, rest) = base.split_once("://").unwrap_or(("https", base));
    Ok(format!("{scheme}://{bucket}.{rest}"))
}

/// The region that a profile is in.
#[allow(clippy::disallowed_methods)] // profiles are kept in a file
async fn region_of(profile: &str) -> Option<String> {
    let path = env(&["AWS_CONFIG_FILE"]).or_else(|| env(&["HOME"]).map(|home| format!("{home}/.aws/config")))?;
    let profile = profile.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path).ok());
    let config = read.await.ok()??;
    let heads = [format!("[profile {profile}]"), format!("[{profile}]")];
    let section = config.lines().map(str::trim).skip_while(|line| !heads.iter().any(|head| head == line)).skip(1);
    let mut pairs = section.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once('='));
    pairs.find(|(name, _)| name.trim() == "region").map(|(_, region)| region.trim().to_owned())
}

fn signer(
    options: &SourceOptions,
    profile: Option<String>,
    region: &str,
    transport: &Transport,
) -> Result<Signer<Credential>> {
    if options.is_on("anonymous")? {
        return Ok(Signer::anonymous());
    }
    let sign = RequestSigner::new("s3", region);
    let links = if let Some(provider) = options.credentials()? {
        let convert = |values: &SourceOptions, expires_in| {
            Ok(given(&values.known("the credentials", OPTIONS)?).map(|given| Credential { expires_in, ..given }))
        };
        vec![Link::callable(provider, transport, convert)]
    } else if let Some(credential) = given(options) {
        let provider = StaticCredentialProvider::new(&credential.access_key_id, &credential.secret_access_key);
        let provider = match &credential.session_token {
            Some(token) => provider.with_session_token(token),
            None => provider,
        };
        vec![Link::new("the keys in the source's options", provider)]
    } else {
        if options.get("access_key_id").is_some() || options.get("secret_access_key").is_some() {
            return Err(Error::new(ErrorKind::Invalid, "use option", "access_key_id")
                .because("access_key_id and secret_access_key belong together"));
        }
        standard(profile)
    };
    Ok(Signer::new(links, sign, transport))
}

fn given(options: &SourceOptions) -> Option<Credential> {
    Some(Credential {
        access_key_id: options.get("access_key_id")?.to_owned(),
        secret_access_key: options.get("secret_access_key")?.to_owned(),
        session_token: options.get("token").map(str::to_owned),
        expires_in: None,
    })
}

/// The standard chain, in the order of Amazon's own tools. A profile that was asked for by name goes before the environment.
fn standard(profile: Option<String>) -> Vec<Link<Credential>> {
    let is_named = profile.is_some();
    let name = profile.unwrap_or_else(|| "default".to_owned());
    let mut links = vec![
        Link::new("AWS_ACCESS_KEY_ID of the environment", EnvCredentialProvider::new()),
        Link::new("web identity (AWS_WEB_IDENTITY_TOKEN_FILE)", AssumeRoleWithWebIdentityCredentialProvider::new()),
    ];
    let from_profile = vec![
        Link::new("the profile in ~/.aws", ProfileCredentialProvider::new().with_profile(&name)),
        Link::new("single sign-on of the profile", SSOCredentialProvider::new().with_profile(&name)),
        Link::new("the profile's credential_process", ProcessCredentialProvider::new().with_profile(&name)),
    ];
    let at = if is_named { 0 } else { links.len() };
    links.splice(at..at, from_profile);
    links.push(Link::new("container credentials", ECSCredentialProvider::new()));
    links.push(Link::new("instance metadata", IMDSv2CredentialProvider::new()));
    links
}

#[async_trait]
impl Protocol for S3 {
    fn place(&self) -> &Place {
        &self.place
    }

    fn page(&self, asked: &Asked<'_>) -> Result<Parts> {
        let prefix = format!("{}{}", self.prefix, asked.folder);
        let max = asked.max.map(|max| max.to_string());
        let mut pairs = vec![("list-type", "2"), ("prefix", &*prefix)];
        pairs.extend(max.as_deref().map(|max| ("max-keys", max)));
        pairs.extend(asked.token.map(|token| ("continuation-token", token)));
        pairs.extend(asked.is_shallow.then_some(("delimiter", "/")));
        let after = asked.after.map(|after| format!("{}{after}", self.prefix));
        pairs.extend(after.as_deref().map(|after| ("start-after", after)));
        pairs.sort_unstable();
        self.request(Method::GET, &format!("{}/?{}", self.bucket_url, text::query(&pairs)))
    }

    fn parse(&self, _: &Asked<'_>, answer: &Answer) -> Result<Parsed, String> {
        let (mut next, mut is_truncated) = (None, false);
        let (mut objects, mut object) = (Vec::new(), (String::new(), None, None));
        let mut folders = Vec::new();
        text::walk_xml(&answer.body, "ListBucketResult", |open, words| match open {
            [_, name] => match name.as_str() {
                "NextContinuationToken" => next = Some(words.to_owned()),
                "IsTruncated" => is_truncated = words == "true",
                "Contents" => objects.push(std::mem::take(&mut object)),
                _ => {}
            },
            [_, parent, name] if parent == "CommonPrefixes" && name == "Prefix" => folders.push(words.to_owned()),
            [_, parent, name] if parent == "Contents" => match name.as_str() {
                "Key" => words.clone_into(&mut object.0),
                "Size" => object.1 = words.parse().ok(),
                "ETag" => object.2 = Some(quoted(words)),
                _ => {}
            },
            _ => {}
        })?;
        let next = next.filter(|token| is_truncated && !token.is_empty());
        if is_truncated && next.is_none() {
            return Err("the listing goes on, and the server does not say how".to_owned());
        }
        let mut parsed = Parsed::with_next(next);
        folders
            .iter()
            .filter_map(|key| key.strip_prefix(&self.prefix))
            .for_each(|key| parsed.add_folder(key.to_owned()));
        for (key, size, tag) in objects {
            let Some(key) = key.strip_prefix(&self.prefix) else { continue };
            let size = size.ok_or_else(|| text::no_listing(&answer.body))?;
            parsed.add(key, Some(size), tag.map_or(Version::Unknown, Version::ETag));
        }
        Ok(parsed)
    }

    fn object(&self, method: Method, key: &str) -> Result<Parts> {
        self.request(method, &format!("{}/{}{}", self.bucket_url, text::path(&self.prefix), text::path(key)))
    }

    fn can_begin_after(&self) -> bool {
        true
    }

    fn put(&self, key: &str) -> Option<Result<Parts>> {
        Some(self.object(Method::PUT, key))
    }

    fn expect(&self, request: &mut Parts, version: &Version) {
        expect_tag(request, version);
    }

    fn ask_for_digest(&self, request: &mut Parts) {
        if self.verify {
            request.headers.insert("x-amz-checksum-mode", HeaderValue::from_static("ENABLED"));
        }
    }

    fn version(&self, headers: &HeaderMap) -> Version {
        tag_in(headers)
    }

    fn digest(&self, headers: &HeaderMap) -> Option<Digest> {
        use super::remote::Algorithm::{Crc32, Crc32c, Crc64Nvme, Sha256};
        let of = |(name, algorithm)| Digest::from_base64(algorithm, headers.get(name)?.to_str().ok()?);
        let names = [
            ("x-amz-checksum-crc64nvme", Crc64Nvme),
            ("x-amz-checksum-crc32c", Crc32c),
            ("x-amz-checksum-crc32", Crc32),
            ("x-amz-checksum-sha256", Sha256),
        ];
        // Of parts, it is none of the bytes.
        let is_composite = headers.get("x-amz-checksum-type").is_some_and(|kind| kind == "COMPOSITE");
        names.into_iter().filter(|_| self.verify && !is_composite).find_map(of)
    }

    async fn authorize(&self, request: &mut Parts) -> Result<Option<Instant>, Missing> {
        let hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or anonymous = true for a public bucket";
        self.signer.sign(request).await.map_err(|missing| missing.hinted(hint))
    }

    fn renew(&self, given: Instant) {
        self.signer.renew(given);
    }

    fn credentials(&self) -> String {
        self.signer.described()
    }
}

impl S3 {
    fn request(&self, method: Method, url: &str) -> Result<Parts> {
        let mut parts = request(method, url)?;
        if self.request_payer {
            parts.headers.insert("x-amz-request-payer", header_value("requester")?);
        }
        Ok(parts)
    }
}
