//! The other way to the objects of a server: what a fixture puts there behind a source's back.

use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use headwater::source::Source;
use headwater_testkit::conformance::Fixture;
use http::request::Parts;
use http::{HeaderValue, Method, Request};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqsign_core::{Context, Signer};

const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PATH: &AsciiSet = &COMPONENT.remove(b'/');

type Sign = Box<dyn Fn(Parts) -> futures_util::future::BoxFuture<'static, Parts> + Send + Sync>;
type Address = Box<dyn Fn(&Method, &str) -> (Method, String) + Send + Sync>;

/// Puts and removes objects over HTTP.
pub(crate) struct Writer {
    client: reqwest::Client,
    address: Address,
    headers: Vec<(&'static str, String)>,
    sign: Sign,
}

impl Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

fn text(server: &serde_json::Value, name: &str) -> String {
    server[name].as_str().unwrap_or_else(|| panic!("no `{name}` in {server}")).to_owned()
}

impl Writer {
    fn new(address: impl Fn(&Method, &str) -> (Method, String) + Send + Sync + 'static) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let sign: Sign = Box::new(|parts| Box::pin(async move { parts }));
        Self { client: reqwest::Client::new(), address: Box::new(address), headers: Vec::new(), sign }
    }

    /// Below a folder of a bucket, in path style.
    pub(crate) fn s3(server: &serde_json::Value, prefix: &str) -> Self {
        let base = format!("{}/{}/{prefix}", text(server, "endpoint"), text(server, "bucket"));
        let keys = reqsign_aws_v4::StaticCredentialProvider::new(
            &text(server, "access_key_id"),
            &text(server, "secret_access_key"),
        );
        let sign = reqsign_aws_v4::RequestSigner::new("s3", &text(server, "region"));
        Self { sign: signing(Signer::new(Context::new(), keys, sign)), ..Self::plain(&base) }
    }

    /// Below a folder of a container.
    pub(crate) fn azure(server: &serde_json::Value, prefix: &str) -> Self {
        let base = format!("{}/{}/{prefix}", text(server, "endpoint"), text(server, "container"));
        let key = reqsign_azure_storage::StaticCredentialProvider::new_shared_key(
            &text(server, "account"),
            &text(server, "key"),
        );
        let sign = signing(Signer::new(Context::new(), key, reqsign_azure_storage::RequestSigner::new()));
        let headers = vec![("x-ms-blob-type", "BlockBlob".to_owned()), ("x-ms-version", "2021-12-02".to_owned())];
        Self { headers, sign, ..Self::plain(&base) }
    }

    /// Below a folder of a bucket, through the JSON API.
    pub(crate) fn gcs(server: &serde_json::Value, prefix: &str) -> Self {
        let (endpoint, bucket, prefix) = (text(server, "endpoint"), text(server, "bucket"), prefix.to_owned());
        Self::new(move |method, key| {
            let name = utf8_percent_encode(&format!("{prefix}/{key}"), COMPONENT).to_string();
            if *method == Method::PUT {
                (Method::POST, format!("{endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}"))
            } else {
                (Method::DELETE, format!("{endpoint}/storage/v1/b/{bucket}/o/{name}"))
            }
        })
    }

    /// Below a URL.
    pub(crate) fn plain(base: &str) -> Self {
        let base = base.to_owned();
        Self::new(move |method, key| (method.clone(), format!("{base}/{}", utf8_percent_encode(key, PATH))))
    }

    async fn send(&self, method: Method, key: &str, body: Bytes) {
        let (method, url) = (self.address)(&method, key);
        let mut parts = Request::builder().method(method).uri(url).body(()).expect("a request").into_parts().0;
        parts.headers.insert("content-length", body.len().into());
        for (name, value) in &self.headers {
            parts.headers.insert(*name, HeaderValue::from_str(value).expect("a value"));
        }
        let parts = (self.sign)(parts).await;
        let request = Request::from_parts(parts, body).try_into().expect("a request");
        let answer = self.client.execute(request).await.expect("answered");
        assert!(answer.status().is_success(), "{key}: {} {}", answer.status(), answer.text().await.unwrap_or_default());
    }

    pub(crate) async fn put(&self, key: &str, bytes: Bytes) {
        self.send(Method::PUT, key, bytes).await;
    }

    pub(crate) async fn remove(&self, key: &str) {
        self.send(Method::DELETE, key, Bytes::new()).await;
    }
}

fn signing<K: reqsign_core::SigningCredential>(signer: Signer<K>) -> Sign {
    Box::new(move |mut parts| {
        let signer = signer.clone();
        Box::pin(async move {
            signer.sign(&mut parts, None).await.expect("signed");
            parts
        })
    })
}

/// A source over a server, and a writer to it.
pub(crate) struct OnServer {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) writer: Writer,
}

#[async_trait]
impl Fixture for OnServer {
    fn source(&self) -> Arc<dyn Source> {
        self.source.clone()
    }

    async fn put(&self, key: &str, bytes: Bytes) {
        self.writer.put(key, bytes).await;
    }

    async fn remove(&self, key: &str) {
        self.writer.remove(key).await;
    }
}
