//! Answers that are no success, in words that help.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use reqwest::Response;

use super::said::Said;
use super::text::shortened;
use crate::error::{Error, ErrorKind};
use crate::source::options::without_userinfo;

/// Where a bucket is, if not where it was asked for.
const REGION: &str = "x-amz-bucket-region";
/// Of an error document.
const MAX_DOCUMENT: usize = 64 << 10;
/// A server that asks for more patience than this is not waited for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(10);
/// Codes with which servers refuse credentials, whatever the status.
const DENYING: &[&str] = &[
    "AccessDenied",
    "AuthenticationFailed",
    "AuthorizationFailure",
    "AuthorizationHeaderMalformed",
    "InvalidAccessKeyId",
    "InvalidAuthenticationInfo",
    "InvalidSecurity",
    "SignatureDoesNotMatch",
];
/// Those that new credentials may help against.
const EXPIRED: &[&str] =
    &["ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "RequestExpired"];
/// Codes for a bucket, container or repository that is not there.
const NO_CONTAINER: &[&str] = &[
    "NoSuchBucket",
    "ContainerNotFound",
    "RepoNotFound",
    "RevisionNotFound",
    "ResourceNotFound",
    "FilesystemNotFound",
];

/// How a source is reached: what an error message has to tell.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Its URI.
    pub(crate) uri: String,
    /// What holds the objects: "bucket `b`".
    pub(crate) container: String,
    /// The server, unless the kind has only one.
    pub(crate) endpoint: Option<String>,
}

impl Place {
    /// ` at http://…`, or nothing.
    pub(crate) fn at(&self) -> String {
        self.endpoint.as_ref().map(|endpoint| format!(" at {}", without_userinfo(endpoint))).unwrap_or_default()
    }
}

/// An answer that is no success.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: Option<String>,
    words: Option<String>,
    retry_after: Option<Duration>,
    headers: HeaderMap,
}

impl Refusal {
    /// Reads what the server says, which is not much.
    pub(super) async fn read(
        mut answer: Response,
        reason: impl Fn(&HeaderMap, &[u8]) -> (Option<String>, Option<String>),
        said: &Said,
    ) -> Self {
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut document = Vec::new();
        while let Ok(Some(chunk)) = answer.chunk().await {
            document.extend_from_slice(&chunk);
            if document.len() > MAX_DOCUMENT {
                break;
            }
        }
        let (code, words) = reason(&headers, &document);
        let text = String::from_utf8_lossy(&document);
        let words = words.or_else(|| Some(shortened(&text)));
        // They may end in the middle of a secret, where the document goes on.
        let words = words.filter(|words| !tells_of_credentials(words) && !said.is_in(words) && !said.is_in(&text));
        let code = code.filter(|code| !said.is_in(code));
        let mut headers = headers;
        if headers.get(REGION).is_some_and(|region| region.to_str().is_ok_and(|region| said.is_in(region))) {
            headers.remove(REGION);
        }
        let retry_after = headers.get(http::header::RETRY_AFTER).and_then(|value| pause_in(value.to_str().ok()?));
        let retry_after = retry_after.map(|pause| pause.min(LONGEST_RETRY_AFTER));
        Self { status, code, words, retry_after, headers }
    }

    /// Whether other credentials might not be refused.
    pub(super) fn may_be_expired(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED || self.has_code(EXPIRED)
    }

    /// The region that the bucket is in, if that is what is wrong.
    pub(crate) fn region(&self) -> Option<&str> {
        self.headers.get(REGION)?.to_str().ok()
    }

    fn has_code(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    fn kind(&self) -> ErrorKind {
        if self.has_code(DENYING) || self.has_code(EXPIRED) {
            return ErrorKind::Denied;
        }
        match self.status.as_u16() {
            401 | 403 | 407 => ErrorKind::Denied,
            404 | 410 => ErrorKind::NotFound,
            412 => ErrorKind::Changed,
            416 => ErrorKind::OutOfRange,
            300..=399 | 408 | 425 | 429 | 500..=599 => ErrorKind::Unavailable,
            _ => ErrorKind::Invalid,
        }
    }

    /// Puts it into our words, without the server's page of XML.
    pub(crate) fn into_error(self, op: &'static str, name: &str, place: &Place, credentials: &str) -> Error {
        let kind = self.kind();
        let (at, code) = (place.at(), self.code.as_deref());
        let in_brackets =
            code.map_or_else(|| format!(" (status {})", self.status.as_u16()), |code| format!(" ({code})"));
        let is_absent_folder = kind == ErrorKind::NotFound && op == "list";
        let lacks_container = self.has_code(NO_CONTAINER) || is_absent_folder && !self.has_code(&["EntryNotFound"]);
        let error = match kind {
            // Who may not see it is told the same as if it were not there.
            _ if lacks_container && kind == ErrorKind::Denied => Error::new(ErrorKind::NotFound, op, name).because(
                format_args!("there is no {}{at}, or it is private; credentials used: {credentials}", place.container),
            ),
            _ if lacks_container => {
                Error::new(ErrorKind::NotFound, op, name).because(format_args!("there is no {}{at}", place.container))
            }
            ErrorKind::Denied => {
                // Told with every refusal, but the reason for this one.
                let region = self.region().filter(|_| self.has_code(&["AuthorizationHeaderMalformed"]));
                let region = region.map(|region| format!("; the bucket is in region {region}")).unwrap_or_default();
                Error::new(kind, op, name)
                    .because(format_args!("access denied{in_brackets}{at}{region}; credentials used: {credentials}"))
            }
            ErrorKind::NotFound if is_absent_folder => Error::new(kind, op, name).because("no such folder"),
            ErrorKind::NotFound => Error::new(kind, op, name).because("no such object"),
            ErrorKind::Changed => Error::new(kind, op, name).because("it was replaced since it was listed"),
            _ => {
                let status = self.status.as_u16();
                let region =
                    self.region().map(|region| format!("; the bucket is in region {region}")).unwrap_or_default();
                let words = match (code, &self.words) {
                    (Some(code), _) => code.to_owned(),
                    (None, Some(words)) if !words.is_empty() => words.clone(),
                    _ => self.status.canonical_reason().unwrap_or("no reason given").to_owned(),
                };
                Error::new(kind, op, name).because(format_args!("{words} (status {status}){region}{at}"))
            }
        };
        let is_throttled = matches!(self.status.as_u16(), 429 | 503) || code == Some("SlowDown");
        if is_throttled { error.throttled(self.retry_after) } else { error.retried_after(self.retry_after) }
    }
}

/// Seconds, or the time until a date.
fn pause_in(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = reqsign_core::time::Timestamp::parse_rfc2822(text.trim()).ok()?.as_system_time();
    Some(at.duration_since(std::time::SystemTime::now()).unwrap_or_default())
}

/// Whether a page may show what was sent: some servers print the headers of a request that they failed at.
fn tells_of_credentials(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ["authorization", "bearer ", "basic ", "x-amz-security-token", "signature=", "credential="]
        .iter()
        .any(|word| words.contains(word))
}
