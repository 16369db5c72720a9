//! Plain HTTP and HTTPS servers.
//!
//! Objects are what lies below a URL. They are listed from the index pages that servers make of folders — HTML as of nginx,
//! Apache, Caddy or Python, or nginx's and Caddy's JSON —; sizes that a page rounds or leaves out are asked for. A version is
//! the strong entity tag, else the time of the last change, which index pages do not tell: reads are held to what a manifest
//! knows.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

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
use super::remote::{Answer, Parsed, Place, Protocol, Remote, Token, Transport, Wire, header_value, text};
use super::{Kind, Source, SourceSpec, Version};
use crate::error::Result;

pub(super) const KIND: Kind = Kind {
    schemes: &["https", "http"],
    example: "https://host/path",
    open: |spec, transport| Box::pin(open(spec, transport)),
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
    size: Option<u64>,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    is_dir: bool,
}

async fn open(spec: &SourceSpec, transport: &Transport) -> Result<Arc<dyn Source>> {
    let options = spec.options.known(&spec.uri, OPTIONS)?;
    let given = Url::parse(&spec.uri).ok();
    let mut root = http_url(&spec.uri)?;
    if !root.path().ends_with('/') {
        root.set_path(&format!("{}/", root.path()));
    }
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let in_uri = given.and_then(|url| url.password().map(|password| (decode(url.username()), decode(password))));
    let beside =
        options.get("user").map(|user| (user.to_owned(), options.get("password").unwrap_or_default().to_owned()));
    let token = match (options.credentials(), options.get("token"), beside, in_uri) {
        (Some(provider), ..) => Token::callable(provider),
        (None, Some(token), ..) => Token::fixed("the token in the source's options", token),
        (None, None, Some((user, password)), _) => Token::basic("the user in the source's options", &user, &password),
        (None, None, None, Some((user, password))) => Token::basic("the user in the URI", &user, &password),
        (None, None, None, None) => Token::none(),
    };
    let uri = root.as_str().trim_end_matches('/').to_owned();
    let protocol = Web { place: Place { uri, container: "such folder".to_owned(), endpoint: None }, root, token };
    let remote = Remote::new(protocol, Wire::new(transport)?);
    // Whether it lists its folders is another question: a manifest may take the place of that.
    remote.reached().await?;
    Ok(Arc::new(remote))
}

#[async_trait]
impl Protocol for Web {
    fn place(&self) -> &Place {
        &self.place
    }

    fn page(&self, prefix: &str, token: Option<&str>, _: Option<usize>) -> Result<Parts> {
        let folder = token.unwrap_or(prefix);
        let mut parts = self.request(Method::GET, folder)?;
        parts.headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/html;q=0.9"));
        Ok(parts)
    }

    fn parse(&self, prefix: &str, token: Option<&str>, answer: &Answer) -> Result<Parsed, String> {
        let folder = token.unwrap_or(prefix);
        let entries = match serde_json::from_slice::<Vec<Entry>>(&answer.body) {
            Ok(entries) => entries.into_iter().map(of_json).collect(),
            Err(_) => of_html(&answer.body, &answer.url).ok_or_else(|| text::no_listing(&answer.body))?,
        };
        let mut parsed = Parsed::default();
        for (name, size) in entries {
            let key = format!("{folder}{name}");
            if name.ends_with('/') { parsed.add_folder(key) } else { parsed.add(&key, size, Version::Unknown) }
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

    async fn authorize(&self, request: &mut Parts) -> Result<(), String> {
        self.token.authorize(request).await
    }

    fn renew(&self) -> bool {
        self.token.renew()
    }

    fn credentials(&self) -> String {
        self.token.described()
    }

    fn follows_redirects(&self) -> bool {
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

/// Name and size of an entry; names of folders end in a slash.
fn of_json(entry: Entry) -> (String, Option<u64>) {
    let name = entry.name.trim_start_matches("./").to_owned();
    if entry.is_dir || entry.kind == "directory" {
        return (format!("{}/", name.trim_end_matches('/')), None);
    }
    (name, entry.size)
}

/// Names and sizes in an index page: its links to what lies directly below it, and a number of digits behind a link.
fn of_html(body: &[u8], page: &Url) -> Option<Vec<(String, Option<u64>)>> {
    let text = std::str::from_utf8(body).ok()?;
    let lower = text.to_ascii_lowercase();
    if !lower.contains("<html") && !lower.contains("<!doctype html")
        || !lower.contains("index of") && !lower.contains("directory listing")
    {
        return None;
    }
    let mut entries: Vec<(String, Option<u64>)> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.to_ascii_lowercase().find("<a ") {
        rest = &rest[at + 3..];
        let tag_end = rest.find('>')?;
        let (tag, behind) = rest.split_at(tag_end);
        rest = behind;
        let Some(name) = href(tag).and_then(|link| below(page, &link)) else { continue };
        if entries.iter().any(|(known, _)| *known == name) {
            continue;
        }
        let line = behind.find("</a>").map_or("", |end| &behind[end + 4..]);
        let line = &line[..line.to_ascii_lowercase().find("<a ").unwrap_or(line.len())];
        let line = line.lines().next().unwrap_or_default();
        let size = line.split(|c: char| c.is_whitespace() || c == '<' || c == '>').rfind(|word| !word.is_empty());
        let size =
            size.filter(|size| size.bytes().all(|digit| digit.is_ascii_digit())).and_then(|size| size.parse().ok());
        entries.push((name, size));
    }
    Some(entries)
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

    fn listed(html: &str) -> Vec<(String, Option<u64>)> {
        of_html(html.as_bytes(), &Url::parse("http://host/data/run/").expect("a URL")).expect("a listing")
    }

    #[test]
    fn index_pages_of_common_servers_are_understood() {
        let nginx = "<html><head><title>Index of /data/run/</title></head><body><h1>Index of /data/run/</h1><hr><pre>\
            <a href=\"../\">../</a>\n<a href=\"b/\">b/</a>   01-Jan-2026 00:00    -\n\
            <a href=\"a%20b.pt\">a b.pt</a>   01-Jan-2026 00:00     1234\n</pre></body></html>";
        assert_eq!(listed(nginx), [("b/".to_owned(), None), ("a b.pt".to_owned(), Some(1234))]);
        let apache = "<!DOCTYPE HTML><html><title>Index of /data/run</title><table><tr><th><a href=\"?C=N;O=D\">Name</a></th></tr>\
            <tr><td><a href=\"/data/\">Parent Directory</a></td></tr>\
            <tr><td><a href=\"x.pt\">x.pt</a></td><td align=\"right\">2026-01-01 00:00  </td><td>1.2M</td></tr></table></html>";
        assert_eq!(listed(apache), [("x.pt".to_owned(), None)]);
        let python = "<!DOCTYPE HTML><html><title>Directory listing for /data/run/</title><ul>\
            <li><a href=\"a%26b.pt\">a&amp;b.pt</a></li>\n<li><a href=\"sub/\">sub/</a></li>\n</ul></html>";
        assert_eq!(listed(python), [("a&b.pt".to_owned(), None), ("sub/".to_owned(), None)]);
    }

    #[test]
    fn a_page_that_lists_nothing_is_none() {
        let page = Url::parse("http://host/").expect("a URL");
        assert_eq!(of_html(b"<html><body>Log in <a href=\"/login\">here</a></body></html>", &page), None);
        assert_eq!(of_html(b"hello", &page), None);
    }
}
