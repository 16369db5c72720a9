//! Pages of an S3 listing, looked at before the client reads them.
//!
//! The client refuses a whole page because of one key that it cannot name (`a//b`, `../x`), and takes any document — a login
//! page, say — for an empty listing. So [`Sieve`] stands between it and the connection: it lets through nothing but whole
//! listings, without the objects that cannot be named, and says how many those were ([`PassedOver`], an extension of the
//! answer). Everything else, bodies of objects above all, passes untouched.

use async_trait::async_trait;
use bytes::Bytes;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::path::Path;

/// How much of what is no listing is shown.
const SHOWN_CHARACTERS: usize = 100;

/// How many objects of a page were left out because of their keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PassedOver(pub(super) u64);

/// Makes clients whose listings are sieved.
#[derive(Debug)]
pub(super) struct Sieving;

impl HttpConnector for Sieving {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        ReqwestConnector::default().connect(options).map(|inner| HttpClient::new(Sieve { inner }))
    }
}

#[derive(Debug)]
struct Sieve {
    inner: HttpClient,
}

#[async_trait]
impl HttpService for Sieve {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let lists = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "list-type=2"));
        let answer = self.inner.execute(request).await?;
        if !lists || !answer.status().is_success() {
            return Ok(answer);
        }
        let (mut head, body) = answer.into_parts();
        let (page, passed_over) =
            sieved(&body.bytes().await?).map_err(|cause| HttpError::new(HttpErrorKind::Decode, cause))?;
        head.extensions.insert(passed_over);
        Ok(HttpResponse::from_parts(head, page.into()))
    }
}

/// An answer that should have been a listing.
#[derive(Debug, thiserror::Error)]
#[error("the answer is no listing, it begins with `{0}`")]
struct NoListing(String);

/// The page without the objects that cannot be named.
fn sieved(body: &Bytes) -> Result<(Bytes, PassedOver), NoListing> {
    let text = std::str::from_utf8(body).ok().filter(|text| is_listing(text));
    let text = text.ok_or_else(|| NoListing(beginning(body)))?;
    let mut kept = String::with_capacity(text.len());
    let mut passed_over = PassedOver::default();
    let mut rest = text;
    while let Some((before, object, after)) = next_object(rest) {
        kept.push_str(before);
        match key_of(object) {
            // The mark that some tools leave for a folder.
            Some(key) if key.ends_with('/') && !key.contains("//") => {}
            Some(key) if !is_nameable(key) => passed_over.0 += 1,
            _ => kept.push_str(object),
        }
        rest = after;
    }
    kept.push_str(rest);
    Ok((kept.into(), passed_over))
}

/// Whether the document is a listing, and whole.
fn is_listing(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}').trim();
    let root =
        if text.starts_with("<?xml") { text.split_once("?>").map_or("", |(_, rest)| rest.trim_start()) } else { text };
    root.starts_with("<ListBucketResult") && (root.ends_with("</ListBucketResult>") || root.ends_with("/>"))
}

/// What is before the next object, the object itself, and what is after it.
fn next_object(text: &str) -> Option<(&str, &str, &str)> {
    const END: &str = "</Contents>";
    let (before, from) = text.split_at(text.find("<Contents>")?);
    let (object, after) = from.split_at(from.find(END)? + END.len());
    Some((before, object, after))
}

/// The key as it is escaped.
fn key_of(object: &str) -> Option<&str> {
    object.split_once("<Key>")?.1.split_once("</Key>").map(|(key, _)| key)
}

/// Whether the client can ask for the object by this key and no other.
fn is_nameable(key: &str) -> bool {
    let key = with_characters(key);
    Path::parse(&key).is_ok_and(|path| path.as_ref() == key)
}

/// The key with its numeric references resolved (`&#13;`); named ones stand for nothing that matters here.
fn with_characters(key: &str) -> String {
    let mut parts = key.split("&#");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (number, rest) = part.split_once(';').unwrap_or((part, ""));
        let code = match number.strip_prefix('x') {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => number.parse(),
        };
        text.extend(code.ok().and_then(char::from_u32));
        text.push_str(rest);
    }
    text
}

fn beginning(body: &[u8]) -> String {
    String::from_utf8_lossy(body).trim().chars().take(SHOWN_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(keys: &[&str]) -> String {
        let objects: Vec<_> = keys.iter().map(|key| format!("<Contents><Key>{key}</Key></Contents>\n")).collect();
        let objects = objects.concat();
        format!("<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"x\"><Name>b</Name>{objects}</ListBucketResult>\n")
    }

    #[test]
    fn objects_that_cannot_be_named_are_left_out_and_counted() {
        let (good, also_good, folder) = ("x/a.pt", "x/b&amp;c&#xe4; ü.pt", "x/folder/");
        let odd = ["x//b.pt", "x/../c.pt", "/d.pt", "x/./e.pt", "x//", "x/f&#x1;.pt", "x/&#46;./g.pt"];
        let all = [&[good][..], &odd, &[folder, also_good]].concat();
        let (page, passed_over) = sieved(&listing(&all).into()).expect("a listing");
        let left = std::str::from_utf8(&page).expect("text").lines().filter(|line| !line.is_empty());
        assert!(left.eq(listing(&[good, also_good]).lines()));
        assert_eq!(passed_over, PassedOver(odd.len() as u64));
    }

    #[test]
    fn what_is_no_whole_listing_is_refused_by_its_beginning() {
        let whole = listing(&["x/a.pt"]);
        for wrong in ["", "<html>login</html>", "<Error><Code>SlowDown</Code></Error>", &whole[..whole.len() - 3]] {
            let error = sieved(&wrong.to_owned().into()).expect_err(wrong).to_string();
            assert!(error.contains(&wrong.chars().take(20).collect::<String>()), "{error}");
        }
        assert!(sieved(&Bytes::from_static(b"\xff\xfe<ListBucketResult/>")).is_err());
        assert!(sieved(&Bytes::from_static(b"<ListBucketResult/>")).is_ok());
    }
}
