//! What requests of several protocols are made of, and the URIs they come from.

use http::header::{ETAG, IF_MATCH};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request};
use url::Url;

use crate::error::{Error, ErrorKind, Result};
use crate::source::options::without_userinfo;
use crate::source::{Version, unusable};

/// A request without a body.
pub(crate) fn request(method: Method, url: &str) -> Result<Parts> {
    let made = Request::builder().method(method).uri(url).body(());
    let made = made.map_err(|cause| Error::new(ErrorKind::Invalid, "ask for", without_userinfo(url)).because(cause))?;
    Ok(made.into_parts().0)
}

/// Has the server refuse objects with another entity tag. A weak one identifies no bytes.
pub(crate) fn expect_tag(request: &mut Parts, version: &Version) {
    if let Version::ETag(tag) = version
        && !tag.starts_with("W/")
        && let Ok(tag) = HeaderValue::from_str(tag)
    {
        request.headers.insert(IF_MATCH, tag);
    }
}

/// The entity tag that an answer is of.
pub(crate) fn tag_in(headers: &HeaderMap) -> Version {
    let tag = headers.get(ETAG).and_then(|tag| tag.to_str().ok());
    tag.map_or(Version::Unknown, |tag| Version::ETag(tag.to_owned()))
}

/// Some listings tell tags without the quotes that answers have.
pub(crate) fn quoted(tag: &str) -> String {
    if tag.starts_with('"') || tag.starts_with("W/") { tag.to_owned() } else { format!("\"{tag}\"") }
}

/// An endpoint: an HTTP URL with a host and nothing behind its path.
pub(crate) fn http_url(endpoint: &str) -> Result<Url> {
    let parsed = Url::parse(endpoint).ok().filter(|url| url.has_host() && matches!(url.scheme(), "http" | "https"));
    let parsed = parsed.filter(|url| url.query().is_none() && url.fragment().is_none());
    let mut url = parsed.ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "use endpoint", without_userinfo(endpoint))
            .because("expected a URL like http://host:9000 or https://host")
    })?;
    // What stands there is no credential that any of these protocols has.
    let _ = (url.set_username(""), url.set_password(None));
    Ok(url)
}

/// A folder within a place: empty, or ending in a slash.
pub(crate) fn folder(path: &str) -> String {
    let path = path.trim_matches('/');
    if path.is_empty() { String::new() } else { format!("{path}/") }
}

/// `scheme://bucket/prefix`: the bucket and the folder in it.
pub(crate) fn bucket_and_prefix<'a>(uri: &'a str, scheme: &str, expected: &str) -> Result<(&'a str, String)> {
    let rest = uri.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")).unwrap_or_default();
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(unusable(uri, format_args!("expected {expected}")));
    }
    if bucket.contains('@') {
        return Err(unusable(uri, format_args!("`@` does not belong in such a URI; give options beside it")));
    }
    refuse_query(uri, rest)?;
    Ok((bucket, folder(prefix)))
}

/// Keys with these characters are read all the same: it is the root that has none.
pub(crate) fn refuse_query(uri: &str, rest: &str) -> Result<()> {
    match rest.find(['?', '#']) {
        None => Ok(()),
        Some(found) => {
            let odd = &rest[found..=found];
            Err(unusable(uri, format_args!("`{odd}` does not belong in such a URI; give options beside it")))
        }
    }
}
