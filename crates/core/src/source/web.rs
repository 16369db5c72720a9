//! Plain HTTP and HTTPS servers.
//!
//! Objects are what lies below a URL. They are listed from the index pages that servers make of folders — HTML as of nginx,
//! Apache, Caddy or Python, or nginx's and Caddy's JSON. Those round sizes and know no versions, so every object is asked for
//! both: a request each, once, which a published manifest saves. A version is the strong entity tag, else the time of the
//! last change.

use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use async_trait::async_trait;
use http::header::{ACCEPT, ACCEPT_ENCODING, IF_UNMODIFIED_SINCE, LAST_MODIFIED};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use percent_encoding::percent_decode_str;
use reqsign_core::time::Timestamp;
use serde::Deserialize;
use url::Url;

use super::options::Known;
use super::remote::request::{expect_tag, http_url, request, tag_in};
use super::remote::{
    Answer, Asked, Missing, Parsed, Place, Protocol, Remote, Token, Transport, Wire, header_value, text,
};
use super::{Kind, Probe, Source, SourceSpec, Version};
use crate::error::Result;

pub(super) const KIND: Kind = Kind {
    name: "HTTP server",
    schemes: &["https", "http"],
    example: "https://host/path",
    is_written: false,
    open: |spec, transport| Box::pin(open(spec, transport)),
    probe: |spec, transport| Box::pin(async { Probe::of(prepare(spec, transport)?) }),
};

const OPTIONS: &[Known] =
    &[("token", &["bearer_token"]), ("user", &["username"]), ("password", &[]), ("allow_http", &[])];

/// A folder of a server.
#[derive(Debug)]
struct Web {
    place: Place,
    /// With a trailing slash.
    root: Url,
    token: Token,
}

/// What nginx and Caddy say of a file in JSON.
#[derive(Deserialize)]
struct Entry {
    name: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    is_dir: bool,
}

async fn open(spec: &SourceSpec, transport: &Transport) -> Result<Arc<dyn Source>> {
    let remote = Remote::new(prepare(spec, transport)?, Wire::new(transport)?);
    // Whether it lists its folders is another question: a manifest may take the place of that.
    remote.reached().await?;
    Ok(Arc::new(remote))
}

fn prepare(spec: &SourceSpec, transport: &Transport) -> Result<Web> {
    let options = spec.options.known(&spec.uri, OPTIONS)?;
    let given = Url::parse(&spec.uri).ok();
    let mut root = http_url(&spec.uri)?;
    if !root.path().ends_with('/') {
        root.set_path(&format!("{}/", root.path()));
    }
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let in_uri = given
        .filter(|url| !url.username().is_empty())
        .map(|url| (decode(url.username()), decode(url.password().unwrap_or_default())));
    let beside =
        options.get("user").map(|user| (user.to_owned(), options.get("password").unwrap_or_default().to_owned()));
    let token = match (options.credentials()?, options.get("token"), beside, in_uri) {
        (Some(provider), ..) => Token::callable(provider, transport),
        (None, Some(token), ..) => Token::fixed(&spec.uri, "the token in the source's options", token)?,
        (None, None, Some((user, password)), _) => Token::basic("the user in the source's options", &user, &password),
        (None, None, None, Some((user, password))) => Token::basic("the user in the URI", &user, &password),
        (None, None, None, None) => Token::none(),
    };
    let uri = root.as_str().trim_end_matches('/').to_owned();
    Ok(Web { place: Place { uri, container: "such folder".to_owned(), endpoint: None }, root, token })
}

#[async_trait]
impl Protocol for Web {
    fn place(&self) -> &Place {
        &self.place
    }

    fn page(&self, asked: &Asked<'_>) -> Result<Parts> {
        let mut parts = self.request(Method::GET, asked.folder)?;
        parts.headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/html;q=0.9"));
        Ok(parts)
    }

    fn parse(&self, asked: &Asked<'_>, answer: &Answer) -> Result<Parsed, String> {
        let entries = match serde_json::from_slice::<Vec<Entry>>(&answer.body) {
            Ok(entries) => entries.iter().map(of_json).collect(),
            Err(_) => of_html(&answer.body, &answer.url).ok_or_else(|| text::no_listing(&answer.body))?,
        };
        let mut parsed = Parsed::default();
        for name in entries {
            let key = format!("{}{name}", asked.folder);
            if name.ends_with('/') { parsed.add_folder(key) } else { parsed.add(&key, None, Version::Unknown) }
        }
        Ok(parsed)
    }

    fn object(&self, method: Method, key: &str) -> Result<Parts> {
        self.request(method, key)
    }

    fn expect(&self, request: &mut Parts, version: &Version) {
        expect_tag(request, version);
        if let Version::Modified(nanoseconds) = version
            && let Ok(time) = Timestamp::from_second((nanoseconds / 1_000_000_000).cast_signed())
            && let Ok(value) = header_value(&time.format_http_date())
        {
            request.headers.insert(IF_UNMODIFIED_SINCE, value);
        }
    }

    fn version(&self, headers: &HeaderMap) -> Version {
        match tag_in(headers) {
            Version::ETag(tag) if !tag.starts_with("W/") => Version::ETag(tag),
            _ => modified(headers).unwrap_or_default(),
        }
    }

    async fn authorize(&self, request: &mut Parts) -> Result<Option<Instant>, Missing> {
        self.token.authorize(request).await
    }

    fn renew(&self, given: Instant) {
        self.token.renew(given);
    }

    fn credentials(&self) -> String {
        self.token.described()
    }

    fn follows_redirects(&self) -> bool {
        true
    }

    fn lists_by_folder(&self) -> bool {
        true
    }

    fn always_has_versions(&self) -> bool {
        false
    }

    fn reason(&self, _: &HeaderMap, _: &[u8]) -> (Option<String>, Option<String>) {
        (None, None)
    }
}

impl Web {
    fn request(&self, method: Method, key: &str) -> Result<Parts> {
        let mut parts = request(method, &format!("{}{}", self.root, text::path(key)))?;
        // Lengths and ranges are of the object, not of what a server makes of it.
        parts.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Ok(parts)
    }
}

fn modified(headers: &HeaderMap) -> Option<Version> {
    let time = Timestamp::parse_rfc2822(headers.get(LAST_MODIFIED)?.to_str().ok()?).ok()?;
    let since = time.as_system_time().duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok().map(Version::Modified)
}

/// Name of an entry; names of folders end in a slash.
fn of_json(entry: &Entry) -> String {
    let name = entry.name.trim_start_matches("./").trim_end_matches('/');
    if entry.is_dir || entry.kind == "directory" { format!("{name}/") } else { name.to_owned() }
}

/// Names in an index page: its links to what lies directly below it.
fn of_html(body: &[u8], page: &Url) -> Option<Vec<String>> {
    let text = std::str::from_utf8(body).ok()?;
    let lower = text.to_ascii_lowercase();
    let is_page = lower.contains("<html") || lower.contains("<!doctype html");
    let is_listing = lower.contains("index of") || lower.contains("directory listing");
    // A page that was cut off would be a listing that lacks objects.
    if !is_page || !is_listing || !lower.trim_end().ends_with("</html>") {
        return None;
    }
    let tags = lower.match_indices("<a ").map(|(at, _)| &text[at + 3..]);
    let links = tags.filter_map(|tag| href(&tag[..tag.find('>')?]));
    let mut names: Vec<_> = links.filter_map(|link| below(page, &link)).collect();
    // Icons link to what the names beside them link to.
    names.sort_unstable();
    names.dedup();
    Some(names)
}

fn href(tag: &str) -> Option<String> {
    let at = tag.to_ascii_lowercase().find("href=")?;
    let value = &tag[at + 5..];
    let value = match value.chars().next()? {
        quote @ ('"' | '\'') => value[1..].split(quote).next()?,
        _ => value.split_whitespace().next()?,
    };
    Some(
        value
            .replace("&amp;", "&")
            .replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&#x27;", "'")
            .replace("&lt;", "<")
            .replace("&gt;", ">"),
    )
}

/// The name that a link has below a page, if it lies there.
fn below(page: &Url, link: &str) -> Option<String> {
    if link.starts_with(['?', '#']) {
        return None;
    }
    // A name with a colon in front is no scheme.
    let target =
        if link.contains("://") || link.starts_with('/') { page.join(link) } else { page.join(&format!("./{link}")) };
    let target = target.ok().filter(|target| target.origin() == page.origin())?;
    let inner = target.path().strip_prefix(page.path()).filter(|inner| !inner.is_empty())?;
    let name = percent_decode_str(inner).decode_utf8().ok()?.into_owned();
    // A slash within it may be an escaped one.
    (!name.trim_end_matches('/').contains('/') && target.query().is_none()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(html: &str) -> Vec<String> {
        of_html(html.as_bytes(), &Url::parse("http://host/data/run/").expect("a URL")).expect("a listing")
    }

    #[test]
    fn index_pages_of_common_servers_are_understood() {
        let nginx = "<html><head><title>Index of /data/run/</title></head><body><h1>Index of /data/run/</h1><hr><pre>\
            <a href=\"../\">../</a>\n<a href=\"b/\">b/</a>   01-Jan-2026 00:00    -\n\
            <a href=\"a%20b.pt\">a b.pt</a>   01-Jan-2026 00:00     1234\n</pre></body></html>";
        assert_eq!(listed(nginx), ["a b.pt", "b/"]);
        let apache = "<!DOCTYPE HTML><html><title>Index of /data/run</title><table><tr><th><a href=\"?C=N;O=D\">Name</a></th></tr>\
            <tr><td><a href=\"/data/\">Parent Directory</a></td></tr>\
            <tr><td><a href=\"x.pt\"><img></a></td><td><a href=\"x.pt\">x.pt</a></td><td>1.2M</td></tr></table></html>";
        assert_eq!(listed(apache), ["x.pt"]);
        let python = "<!DOCTYPE HTML><html><title>Directory listing for /data/run/</title><ul>\
            <li><a href=\"a%26b.pt\">a&amp;b.pt</a></li>\n<li><a href=\"sub/\">sub/</a></li>\n</ul></html>";
        assert_eq!(listed(python), ["a&b.pt", "sub/"]);
    }

    #[test]
    fn a_page_that_points_elsewhere_lists_nothing_of_it() {
        let page = "<html><title>Index of /data/run/</title><a href=\"http://elsewhere/x.pt\">x</a><a href=\"/data/y.pt\">y</a>\
            <a href=\"z.pt?token=1\">z</a><a href=\"..%2f..%2fetc\">w</a><a href=\"sub/deep.pt\">v</a></html>";
        assert_eq!(listed(page), [""; 0]);
    }

    #[test]
    fn a_page_that_lists_nothing_is_none() {
        let page = Url::parse("http://host/").expect("a URL");
        assert_eq!(of_html(b"<html><body>Log in <a href=\"/login\">here</a></body></html>", &page), None);
        assert_eq!(of_html(b"hello", &page), None);
        let cut = b"<html><title>Index of /</title><pre><a href=\"x.pt\">x.pt</a>\n<a href=\"y.p";
        assert_eq!(of_html(cut, &page), None);
    }
}
