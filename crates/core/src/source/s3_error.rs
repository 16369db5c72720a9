//! What went wrong with S3, in words that help.

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
use object_store::client::{HttpError, HttpErrorKind};

use super::options::{SourceOptions, without_userinfo};
use crate::error::{Error, ErrorKind};

/// Of an answer that is no S3 error document.
const SHOWN_CHARACTERS: usize = 300;

/// How a bucket is reached: what an error message has to tell.
#[derive(Debug)]
pub(super) struct Access {
    bucket: String,
    endpoint: Option<String>,
    credentials: &'static str,
}

impl Access {
    pub(super) fn new(uri: &str, builder: &AmazonS3Builder, options: &SourceOptions) -> Self {
        let has = |key: Key| builder.get_config_value(&key).is_some_and(|value| !value.is_empty());
        let given = options.get("access_key_id").or_else(|| options.get("aws_access_key_id")).is_some();
        let credentials = if builder.get_config_value(&Key::SkipSignature).as_deref() == Some("true") {
            "none (anonymous)"
        } else if given {
            "the keys in the source's options"
        } else if has(Key::AccessKeyId) {
            "AWS_ACCESS_KEY_ID of the environment"
        } else if has(Key::WebIdentityTokenFile) {
            "web identity (AWS_WEB_IDENTITY_TOKEN_FILE)"
        } else if has(Key::ContainerCredentialsRelativeUri) || has(Key::ContainerCredentialsFullUri) {
            "container credentials"
        } else {
            "instance metadata; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or anonymous = true for a public bucket"
        };
        let bucket = uri.trim_start_matches("s3://").split('/').next().unwrap_or_default().to_owned();
        Self { bucket, endpoint: builder.get_config_value(&Key::Endpoint), credentials }
    }

    /// Puts an error of the client into our words, without the server's page of XML.
    pub(super) fn error(&self, op: &'static str, name: &str, cause: object_store::Error) -> Error {
        use object_store::Error as Os;
        let text = chain(&cause);
        let new = |kind| Error::new(kind, op, name);
        match cause {
            // Listing reports these as failed requests like any other, so the code decides.
            _ if code_in(&text).as_deref() == Some("NoSuchBucket") => {
                new(ErrorKind::NotFound).because(format_args!("there is no bucket `{}`{}", self.bucket, self.place()))
            }
            Os::NotFound { .. } => new(ErrorKind::NotFound).because("no such object"),
            Os::PermissionDenied { .. } | Os::Unauthenticated { .. } => self.denied(new(ErrorKind::Denied), &text),
            Os::Precondition { .. } => new(ErrorKind::Changed).because("it was replaced since it was listed"),
            Os::InvalidPath { .. } | Os::UnknownConfigurationKey { .. } => new(ErrorKind::Invalid).because(text),
            _ if denies(&text) => self.denied(new(ErrorKind::Denied), &text),
            cause => self.transport(new(http_kind(&cause)), &cause, &text),
        }
    }

    fn denied(&self, error: Error, text: &str) -> Error {
        let code = code_in(text).map(|code| format!(" ({code})")).unwrap_or_default();
        error.because(format_args!("access denied{code}{}; credentials used: {}", self.place(), self.credentials))
    }

    fn transport(&self, error: Error, cause: &object_store::Error, text: &str) -> Error {
        let reason = match (http_error(cause).map(HttpError::kind), code_in(text)) {
            (Some(HttpErrorKind::Connect), _) => "cannot connect".to_owned(),
            (Some(HttpErrorKind::Timeout), _) => "the server did not answer in time".to_owned(),
            (_, Some(code)) => code,
            (Some(HttpErrorKind::Decode), _) => innermost(cause),
            _ => shortened(text),
        };
        error.because(format_args!("{reason}{}", self.place()))
    }

    fn place(&self) -> String {
        self.endpoint.as_ref().map(|endpoint| format!(" at {}", without_userinfo(endpoint))).unwrap_or_default()
    }
}

/// The beginning of what may be a whole web page, without the user and password that a URL in it may have.
fn shortened(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().map(without_userinfo).collect();
    let text = words.join(" ");
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn http_error(cause: &object_store::Error) -> Option<&HttpError> {
    let mut error: Option<&(dyn std::error::Error + 'static)> = Some(cause);
    while let Some(current) = error {
        if let Some(http) = current.downcast_ref::<HttpError>() {
            return Some(http);
        }
        error = current.source();
    }
    None
}

/// Whether a body ended before its time. The client then asks for the rest, and where a server answers that with the whole
/// object, complains of headers: not what a user should hear of.
pub(super) fn ended_early(cause: &object_store::Error) -> bool {
    match http_error(cause).map(HttpError::kind) {
        Some(kind) => {
            matches!(kind, HttpErrorKind::Decode | HttpErrorKind::Request | HttpErrorKind::Interrupted)
        }
        None => chain(cause).contains("Content-Range"),
    }
}

fn http_kind(cause: &object_store::Error) -> ErrorKind {
    match http_error(cause).map(HttpError::kind) {
        Some(HttpErrorKind::Timeout) => ErrorKind::Timeout,
        _ => ErrorKind::Unavailable,
    }
}

/// Codes with which servers refuse a key; and failing to get one, which the client reports like any failed request.
fn denies(text: &str) -> bool {
    const CODES: [&str; 5] =
        ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"];
    let code = code_in(text);
    let refused = code.is_some_and(|code| CODES.contains(&code.as_str()));
    refused
        || ["InstanceMetadata", "instance metadata", "169.254.169.254", "169.254.170.2", "WebIdentity", "credential"]
            .iter()
            .any(|word| text.contains(word))
}

fn chain(cause: &dyn std::error::Error) -> String {
    let mut text = cause.to_string();
    let mut next = cause.source();
    while let Some(error) = next {
        let line = error.to_string();
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        next = error.source();
    }
    text
}

/// The words of the first cause.
fn innermost(cause: &dyn std::error::Error) -> String {
    let mut error = cause;
    while let Some(deeper) = error.source() {
        error = deeper;
    }
    shortened(&error.to_string())
}

/// The code in an S3 error document: `<Code>SlowDown</Code>`.
fn code_in(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code.chars().take(60).collect())
}
