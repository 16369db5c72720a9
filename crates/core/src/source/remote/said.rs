//! What a request told its server that nobody else is to hear.
//!
//! Servers repeat what they were sent: in error pages, in answers that are no listing, in headers. An error that would show it
//! says instead that something was left out.

use std::collections::HashSet;

use http::request::Parts;
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use url::Url;
use url::form_urlencoded;

use crate::error::Error;

/// Shorter words of a request are no secrets, but for passwords, and those stand alone where they are repeated.
const SECRET_LENGTH: usize = 8;
/// What is shorter than this is in every text.
const SHORTEST: usize = 3;
/// So often may a text be encoded.
const MOST_ENCODINGS: usize = 4;
/// So much of a secret in a row is not there by chance. A page that is cut off may show only a part.
const TELLING_LENGTH: usize = 12;
/// Headers whose values are secret.
const SECRET_HEADERS: [&str; 3] = ["authorization", "cookie", "x-amz-security-token"];
/// What the names of secret parameters of a URL have in them; and of parameters that are none all the same.
const SECRET_PARAMETERS: &[&str] = &["sig", "token", "secret", "password"];
const PLAIN_PARAMETERS: &[&str] = &["continuation-token", "pagetoken"];

/// What is secret of a request. Made for each, so that nothing is computed before something has to be hidden.
#[derive(Debug)]
pub(super) struct Said {
    headers: Vec<HeaderValue>,
    asked: Uri,
    /// Where redirects led.
    answered: Option<Url>,
}

impl Said {
    pub(super) fn of(request: &Parts) -> Self {
        let headers = SECRET_HEADERS.into_iter().flat_map(|name| request.headers.get_all(name)).cloned().collect();
        Self { headers, asked: request.uri.clone(), answered: None }
    }

    pub(super) fn led_to(self, answered: &Url) -> Self {
        Self { answered: Some(answered.clone()), ..self }
    }

    /// Whether a text of the server repeats what it was sent.
    pub(super) fn is_in(&self, text: &str) -> bool {
        repeats(text, &self.secrets())
    }

    /// The error, but for words in which the server repeats what it was sent.
    pub(super) fn kept_out_of(&self, error: Error) -> Error {
        let words = error.report().replacen(error.subject(), "", 1);
        if self.is_in(&words) { error.without_reason(LEFT_OUT) } else { error }
    }

    fn secrets(&self) -> Vec<String> {
        let headers = self.headers.iter().filter_map(|value| value.to_str().ok()).flat_map(in_header);
        let queries = [self.asked.query(), self.answered.as_ref().and_then(Url::query)];
        headers.chain(queries.into_iter().flatten().flat_map(in_query)).collect()
    }
}

/// Instead of what a server said.
const LEFT_OUT: &str = "the server's words are left out: they repeat credentials";

/// Every word of a token service's request: all of it may be secret.
pub(super) fn all_of(request: &http::Request<bytes::Bytes>) -> Vec<String> {
    let headers = request.headers().values().filter_map(|value| value.to_str().ok()).flat_map(in_header);
    let query = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    let form = form_urlencoded::parse(request.body());
    let mut all: Vec<_> = headers.chain(query.chain(form).map(|(_, value)| value.into_owned())).collect();
    if let Ok(document) = serde_json::from_slice(request.body()) {
        in_document(&document, &mut all);
    }
    all
}

/// Whether a text has a secret in it, or enough of one, as it is or encoded for a URL, a page or a document.
pub(super) fn repeats(text: &str, secrets: &[String]) -> bool {
    let secrets = secrets.iter().map(String::as_bytes).filter(|secret| secret.len() >= SHORTEST);
    let (short, long): (Vec<_>, Vec<_>) = secrets.partition(|secret| secret.len() < TELLING_LENGTH);
    let parts: HashSet<_> = long.into_iter().flat_map(|secret| secret.windows(TELLING_LENGTH)).collect();
    let has_secret = |text: &str| {
        let text = text.as_bytes();
        text.windows(TELLING_LENGTH).any(|part| parts.contains(part))
            || short.iter().any(|secret| has_word(text, secret))
    };
    let mut text = text.to_owned();
    for _ in 0..MOST_ENCODINGS {
        if has_secret(&text) {
            return true;
        }
        let decoded = unescaped(&percent_decode_str(&text).decode_utf8_lossy());
        if decoded == text {
            return false;
        }
        text = decoded;
    }
    has_secret(&text)
}

/// Whether a text has this somewhere, and as a word of its own where it is so short that it may be part of another.
fn has_word(text: &[u8], secret: &[u8]) -> bool {
    let is_letter = |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(u8::is_ascii_alphanumeric);
    let found = text.windows(secret.len()).enumerate().filter(|(_, part)| *part == secret);
    let mut places = found.map(|(at, _)| at);
    places
        .any(|at| secret.len() >= SECRET_LENGTH || !is_letter(at.checked_sub(1)) && !is_letter(Some(at + secret.len())))
}

/// Without what pages and documents write for single characters.
fn unescaped(text: &str) -> String {
    let pairs = [
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#x27;", "'"),
        ("&apos;", "'"),
        ("&lt;", "<"),
        ("&gt;", ">"),
    ];
    let text = pairs.iter().fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain));
    text.replace("&amp;", "&").replace('\\', "")
}

/// `Bearer TOKEN`, `Basic PAIR`, `SharedKey ACCOUNT:SIGNATURE`, `AWS4-… Credential=…, SignedHeaders=…, Signature=…`. Names of keys and
/// accounts are no secrets, and servers have reason to tell them.
fn in_header(value: &str) -> Vec<String> {
    if let Some((_, signature)) = value.split_once("Signature=") {
        return vec![signature.trim().to_owned()];
    }
    let (scheme, rest) = value.split_once(' ').unwrap_or(("", value));
    match scheme {
        "SharedKey" => vec![rest.split_once(':').map_or(rest, |(_, signature)| signature).to_owned()],
        "Basic" => {
            let pair = reqsign_core::hash::base64_decode(rest).unwrap_or_default();
            let pair = String::from_utf8_lossy(&pair).into_owned();
            let password = pair.split_once(':').map(|(_, password)| password.to_owned());
            password.into_iter().chain([rest.to_owned()]).collect()
        }
        _ => value.split([' ', ',', ';']).filter(|word| word.len() >= SECRET_LENGTH).map(str::to_owned).collect(),
    }
}

fn in_query(query: &str) -> Vec<String> {
    let is_secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        SECRET_PARAMETERS.iter().any(|word| name.contains(word)) && !PLAIN_PARAMETERS.contains(&&*name)
    };
    let pairs = form_urlencoded::parse(query.as_bytes());
    pairs.filter(|(name, _)| is_secret(name)).map(|(_, value)| value.into_owned()).collect()
}

fn in_document(document: &serde_json::Value, all: &mut Vec<String>) {
    match document {
        serde_json::Value::String(text) => all.push(text.clone()),
        serde_json::Value::Array(items) => items.iter().for_each(|item| in_document(item, all)),
        serde_json::Value::Object(entries) => entries.values().for_each(|item| in_document(item, all)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::error::ErrorKind;

    /// What is left of an error whose server said these words to a request with such a header.
    fn shown(header: (&str, &str), url: &str, words: &str) -> String {
        let request = Request::builder().uri(url).header(header.0, header.1).body(()).expect("a request");
        let said = Said::of(&request.into_parts().0).led_to(&Url::parse(url).expect("a URL"));
        let error = Error::new(ErrorKind::Unavailable, "read", "http://host/some-long-object-name").because(words);
        said.kept_out_of(error).report()
    }

    #[test]
    fn words_of_a_server_are_left_out_when_they_repeat_what_it_was_sent() {
        let long = "eyJhbGciOiJSUzI1NiJ9.".to_owned() + &"0123456789abcdefghij".repeat(40);
        let bearer = format!("Bearer {long}");
        let signed =
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE1/x, SignedHeaders=host;x-amz-date, Signature=0a1b2c3d4e5f6a7b";
        let plain = "http://host/some-long-object-name";
        let signed_url = "http://host/x?prefix=some-long-prefix&sig=a%2Fb%2Bc%3Dsecret";
        for (header, url, words, is_shown) in [
            (("authorization", "Bearer hidden-token"), plain, "unknown session hidden-token", false),
            (("authorization", "Bearer hidden-token"), plain, "unknown session", true),
            (("authorization", &*bearer), plain, &format!("no session {}…", &long[..40]), false),
            (("authorization", "Basic dXNlcjpwYXNzd29yZCsx"), plain, "wrong: dXNlcjpwYXNzd29yZCsx", false),
            (("authorization", "Basic dXNlcjpwYXNzd29yZCsx"), plain, "wrong: password+1", false),
            (("authorization", "Basic dXNlcjpwYXNzd29yZCsx"), plain, "wrong: password%2B1", false),
            (("authorization", "Bearer a&b-hidden"), plain, "wrong:&nbsp;a&amp;b-hidden", false),
            (("authorization", "Bearer a/b\"hidden"), plain, r#"{"why": "no a\/b\"hidden"}"#, false),
            (("authorization", "Basic Ym9iOmh1bnRlcjI="), plain, "login failed for bob/hunter2", false),
            (("authorization", "Basic Ym9iOmh1bnRlcjI="), plain, "no hunter20 here", true),
            (("authorization", "Basic dXNlcjpwYXNzd29yZCsx"), plain, "wrong: password%252B1", false),
            (("authorization", "SharedKey mystorageaccount:c2lnbmF0dXJl"), plain, "no c2lnbmF0dXJl", false),
            (
                ("authorization", "SharedKey mystorageaccount:c2lnbmF0dXJl"),
                plain,
                "busy at http://mystorageaccount",
                true,
            ),
            (("authorization", signed), plain, "computed another than 0a1b2c3d4e5f6a7b", false),
            (("authorization", signed), plain, "sign host;x-amz-date", true),
            (("authorization", signed), plain, "no key AKIDEXAMPLE1/x", true),
            (("x-amz-security-token", "session-token"), plain, "expired: session-token", false),
            (("x-other", "some-long-object-name"), plain, "no some-long-object-name here", true),
            (("x-other", "x"), signed_url, "wrong signature a/b+c=secret", false),
            (("x-other", "x"), signed_url, "in http://host/x?sig=a%2Fb%2Bc%3Dsecret", false),
            (("x-other", "x"), signed_url, "nothing below some-long-prefix", true),
        ] {
            let left = shown(header, url, words);
            assert_eq!(left.contains(words), is_shown, "{words}: {left}");
            assert!(left.starts_with("cannot read `http://host/some-long-object-name`: "), "{left}");
            assert!(is_shown || left.ends_with(LEFT_OUT), "{left}");
        }
    }

    #[test]
    fn all_that_a_token_service_was_told_is_secret() {
        let request = |body: &'static str| {
            let request = Request::builder().uri("http://host/token?code=in-the-query").header("x-any", "in-a-header");
            request.body(bytes::Bytes::from_static(body.as_bytes())).expect("a request")
        };
        for (body, secret) in [
            ("a=in-a-form", "in-a-form"),
            (r#"{"a":{"b":["in-a-document"]}}"#, "in-a-document"),
            ("", "in-the-query"),
            ("", "in-a-header"),
        ] {
            assert!(repeats(&format!("no {secret} here"), &all_of(&request(body))), "{secret}");
            assert!(!repeats("no such thing here", &all_of(&request(body))));
        }
    }
}
