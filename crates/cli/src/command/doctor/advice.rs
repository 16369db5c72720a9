//! What to do about it.

use headwater::format::DECODERS;
use headwater::source::Server;
use headwater::{Error, ErrorKind};

pub(super) const URI: &str =
    "write the URI as the message says; options go beside it, credentials into the environment";

/// Words with which a server's refusal names the region.
const REGION: &str = "the bucket is in region ";

/// Codes of refusals that say more than that they are some.
const CODES: &[(&str, &str)] = &[
    ("(RequestTimeTooSkewed)", "set this machine's clock: it is too far from the server's"),
    ("(SignatureDoesNotMatch)", "the secret is not that of the access key: set both anew, without blanks or quotes"),
    ("(InvalidAccessKeyId)", "the key is not known there, maybe another provider's: see --endpoint and --profile"),
    ("(ExpiredToken)", "the session has ended: sign in again (`aws sso login`), or get new keys"),
];

/// Knows what is asked where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Adviser<'a> {
    pub(super) scheme: &'a str,
    pub(super) server: Option<&'a Server>,
}

impl Adviser<'_> {
    /// For a failure of a request, or of what precedes it.
    pub(super) fn on(&self, error: &Error) -> String {
        let words = error.report();
        if let Some(region) = region_in(&words) {
            return format!("the bucket is in region {region}: --region {region}");
        }
        if let Some((_, advice)) = CODES.iter().find(|(code, _)| words.contains(code)) {
            return (*advice).to_owned();
        }
        match error.kind() {
            ErrorKind::Denied if self.server.is_none() => {
                "let this user read the files: see their permissions".to_owned()
            }
            ErrorKind::Denied => self.credentials().to_owned(),
            ErrorKind::NotFound => self.absent().to_owned(),
            ErrorKind::Invalid => format!("correct what the message names; {URI}"),
            ErrorKind::Timeout => {
                "the server accepts connections and does not answer: it may be overloaded, or a proxy \
                                   in between may be stuck; try again, then look there"
                    .to_owned()
            }
            ErrorKind::Unavailable => self.unavailable(&words),
            ErrorKind::Corrupt => "the object is damaged: write it again, and compare with the original".to_owned(),
            ErrorKind::Changed => "something writes there at this moment: try again when it is done".to_owned(),
            ErrorKind::Unsupported => format!("formats that are read: {}", formats()),
            _ => "try again; if it stays, report it with this output".to_owned(),
        }
    }

    fn credentials(&self) -> &'static str {
        match self.scheme {
            "s3" => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of who may list and read it, or choose --profile NAME, \
                 or --anonymous for a public bucket"
            }
            "gs" => {
                "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS, or --anonymous for a \
                 public bucket"
            }
            "az" | "abfs" | "abfss" => {
                "run `az login`, or set AZURE_STORAGE_ACCOUNT_KEY and --account NAME, or --anonymous for a public container"
            }
            "hf" => "set HF_TOKEN or run `hf auth login`; a gated dataset has to be asked for on its page",
            _ => {
                "the server wants a user and password or a token: give them as options of the source, from a file or program"
            }
        }
    }

    fn absent(&self) -> &'static str {
        match self.scheme {
            "s3" | "gs" | "az" | "abfs" | "abfss" => {
                "check the name and who it belongs to: --endpoint, --profile or --account may lead elsewhere"
            }
            "hf" => "check owner, name and revision; a private dataset is told as absent: set HF_TOKEN",
            _ => "check the path, and write it in full",
        }
    }

    fn unavailable(&self, words: &str) -> String {
        let speaks_tls = self.server.is_some_and(|server| server.is_encrypted);
        let at_fault = if words.contains("certificate") {
            "the server's certificate is not trusted here: install its authority's, or use the name it is made for"
        } else if speaks_tls && (words.contains("InvalidContentType") || words.contains("corrupt message")) {
            "the server does not speak TLS on that port: write http:// instead of https://"
        } else if words.starts_with("cannot find credentials") {
            "whom credentials are asked of is in trouble: try again, then see its log"
        } else if words.contains("no listing") && self.scheme.starts_with("http") {
            "the server makes no index pages of folders: turn them on (autoindex), or publish a manifest there"
        } else if words.contains("no listing") || words.contains("not the store's") {
            "something else answers than the store's API: --endpoint may be its web console, or a login page is in between"
        } else {
            "the server is in trouble or does not know the protocol: try again, then see its log"
        };
        at_fault.to_owned()
    }
}

/// The region that a message names.
fn region_in(words: &str) -> Option<&str> {
    let (_, rest) = words.split_once(REGION)?;
    rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().filter(|region| !region.is_empty())
}

pub(super) fn resolving(scheme: &str) -> &'static str {
    match scheme {
        "s3" => "check --endpoint, or --region for Amazon's own; then whether this machine resolves other names",
        "az" | "abfs" | "abfss" => "check --account and --endpoint: an account that is not there has no name",
        _ => "check the host's name; then whether this machine resolves other names",
    }
}

pub(super) fn connecting(server: &Server, is_refused: bool, was_slow: bool) -> String {
    let port = server.port;
    if is_refused {
        format!(
            "nothing listens on port {port} there: start the server, or correct the port of --endpoint or of the URI"
        )
    } else if was_slow {
        format!("nothing answers on port {port}: a firewall may drop it; where there is a proxy, set HTTPS_PROXY")
    } else {
        "this machine has no way there: check its network, and whether the address is meant for it".to_owned()
    }
}

pub(super) fn proxy(proxy: &str) -> String {
    format!("not needed if the proxy {proxy} can: the first request will show; else add the host to NO_PROXY")
}

/// Suffixes that are read.
pub(super) fn formats() -> String {
    let suffixes: Vec<_> = DECODERS.iter().flat_map(|decoder| decoder.suffixes()).copied().collect();
    format!("{}, each also with .zst", suffixes.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(scheme: &str, kind: ErrorKind, words: &str) -> String {
        let server = Server { host: "host".to_owned(), port: 443, is_encrypted: true, proxy: None };
        Adviser { scheme, server: Some(&server) }.on(&Error::new(kind, "list", "s3://b").because(words))
    }

    #[test]
    fn a_region_that_the_server_names_is_the_advice() {
        let words = "PermanentRedirect (status 301); the bucket is in region eu-west-1";
        assert_eq!(
            advice("s3", ErrorKind::Unavailable, words),
            "the bucket is in region eu-west-1: --region eu-west-1"
        );
        let words = "access denied; the bucket is in region us-gov-west-1; credentials used: x";
        assert!(advice("s3", ErrorKind::Denied, words).ends_with(": --region us-gov-west-1"));
    }

    #[test]
    fn advice_is_for_the_kind_of_source_and_of_failure() {
        for (scheme, kind, words, expected) in [
            ("s3", ErrorKind::Denied, "no", "AWS_ACCESS_KEY_ID"),
            ("gs", ErrorKind::Denied, "no", "gcloud"),
            ("abfss", ErrorKind::Denied, "no", "--account"),
            ("s3", ErrorKind::Denied, "access denied (RequestTimeTooSkewed)", "clock"),
            ("hf", ErrorKind::NotFound, "no", "HF_TOKEN"),
            ("s3", ErrorKind::Unavailable, "invalid peer certificate: UnknownIssuer", "not trusted"),
            ("s3", ErrorKind::Unavailable, "received corrupt message of type InvalidContentType", "http://"),
            ("s3", ErrorKind::Unavailable, "the answer is no listing", "web console"),
            ("https", ErrorKind::Unavailable, "the answer is no listing", "autoindex"),
        ] {
            let found = advice(scheme, kind, words);
            assert!(found.contains(expected), "{scheme} {words}: {found}");
        }
        let error = Error::new(ErrorKind::Unavailable, "find credentials for", "s3://b").because("no");
        let found = Adviser { scheme: "s3", server: None }.on(&error);
        assert!(found.starts_with("whom credentials are asked of"), "{found}");
    }
}
