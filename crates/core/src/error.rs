//! The one error type.
//!
//! An [`Error`] says what was attempted on what (cannot read object x.pt), why it failed, and — through its
//! [`ErrorKind`] — what the caller can do about it. `Display` prints one level; the edges (CLI, Python) print the whole
//! chain with [`Error::report`]. Messages never contain a credential.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What the caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The object, directory or bucket does not exist: fix the name, or try a replica.
    NotFound,
    /// Credentials are missing or do not suffice: retrying will not help.
    Denied,
    /// An argument, URI or configuration is wrong: fix it.
    Invalid,
    /// An index is outside the dataset.
    OutOfRange,
    /// The bytes are damaged or hostile: replace the object.
    Corrupt,
    /// The bytes are fine but need something Headwater does not do.
    Unsupported,
    /// The object is not the version that was asked for.
    Changed,
    /// A deadline passed.
    Timeout,
    /// The remote failed in a way that may pass: retrying can help.
    Unavailable,
    /// The operating system refused local I/O.
    Io,
    /// The user interrupted the wait.
    Interrupted,
    /// A defect of Headwater.
    Internal,
}

impl ErrorKind {
    /// All of them, in their order.
    pub const ALL: [Self; 12] = [
        Self::NotFound,
        Self::Denied,
        Self::Invalid,
        Self::OutOfRange,
        Self::Corrupt,
        Self::Unsupported,
        Self::Changed,
        Self::Timeout,
        Self::Unavailable,
        Self::Io,
        Self::Interrupted,
        Self::Internal,
    ];

    /// In one word, as metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::OutOfRange => "out_of_range",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Changed => "changed",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Io => "io",
            Self::Interrupted => "interrupted",
            Self::Internal => "internal",
        }
    }
}

/// A failed operation: kind, operation, subject, reason and cause. Clones share it: one failed load may have several waiters.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    op: Cow<'static, str>,
    /// The subject in quotes, then the reasons.
    context: String,
    /// Bytes of the subject.
    subject_len: usize,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    /// The remote asked for fewer requests.
    is_throttled: bool,
    retry_after: Option<Duration>,
    /// Nobody was asked: this machine lacks something.
    is_unasked: bool,
    /// Whoever reads the same object fails likewise.
    is_of_content: bool,
}

/// Shorthand for a result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Creates ``cannot {op} `{subject}` ``.
    pub fn new(kind: ErrorKind, op: impl Into<Cow<'static, str>>, subject: impl fmt::Display) -> Self {
        let context = format!("`{subject}`");
        Self(Arc::new(Inner {
            kind,
            op: op.into(),
            subject_len: context.len() - 2,
            context,
            source: None,
            is_throttled: false,
            is_unasked: false,
            is_of_content: false,
            retry_after: None,
        }))
    }

    /// Adds the reason: ``cannot read `x`: {reason}``.
    #[must_use]
    pub fn because(mut self, reason: impl fmt::Display) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.context = format!("{}: {reason}", inner.context);
        self
    }

    /// Attaches the lower-level cause.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Arc::make_mut(&mut self.0).source = Some(cause.into().into());
        self
    }

    /// Creates the error of an operating system call; the kind follows from the cause.
    pub fn io(op: impl Into<Cow<'static, str>>, subject: impl fmt::Display, cause: std::io::Error) -> Self {
        use std::io::ErrorKind as Os;
        let kind = match cause.kind() {
            Os::NotFound | Os::NotADirectory => ErrorKind::NotFound,
            Os::PermissionDenied => ErrorKind::Denied,
            Os::TimedOut => ErrorKind::Timeout,
            _ => ErrorKind::Io,
        };
        Self::new(kind, op, subject).caused_by(cause)
    }

    /// Marks a failure with which the remote asks for fewer requests, and maybe says when to come back.
    #[must_use]
    pub fn throttled(mut self, retry_after: Option<Duration>) -> Self {
        Arc::make_mut(&mut self.0).is_throttled = true;
        self.retried_after(retry_after)
    }

    /// Notes when the remote wants to be asked again.
    #[must_use]
    pub fn retried_after(mut self, pause: Option<Duration>) -> Self {
        if pause.is_some() {
            Arc::make_mut(&mut self.0).retry_after = pause;
        }
        self
    }

    /// What it concerns.
    pub(crate) fn subject(&self) -> &str {
        &self.0.context[1..=self.0.subject_len]
    }

    /// The same failure with more to say, after all that it says and its causes do.
    #[must_use]
    pub(crate) fn with_remark(mut self, remark: impl fmt::Display) -> Self {
        let report = self.report();
        let inner = Arc::make_mut(&mut self.0);
        let said = &report[report.len().min("cannot  ".len() + inner.op.len())..];
        inner.context = format!("{said}: {remark}");
        inner.source = None;
        self
    }

    /// The same failure with another reason.
    #[must_use]
    pub(crate) fn without_reason(mut self, instead: &str) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.context = format!("`{}`: {instead}", &inner.context[1..=inner.subject_len]);
        inner.source = None;
        self
    }

    /// The same failure of another operation.
    #[must_use]
    pub(crate) fn renamed(mut self, op: &'static str) -> Self {
        Arc::make_mut(&mut self.0).op = Cow::Borrowed(op);
        self
    }

    /// Marks a failure before anybody was asked.
    #[must_use]
    pub(crate) fn unasked(mut self) -> Self {
        Arc::make_mut(&mut self.0).is_unasked = true;
        self
    }

    /// Whether it failed before anybody was asked, so that it will fail again.
    pub(crate) fn is_unasked(&self) -> bool {
        self.0.is_unasked
    }

    /// Marks a failure that comes of an object's content, not of how or when it was read.
    #[must_use]
    pub(crate) fn of_content(mut self) -> Self {
        Arc::make_mut(&mut self.0).is_of_content = true;
        self
    }

    /// Whether every process that reads the same version of the object fails likewise.
    pub(crate) fn is_of_content(&self) -> bool {
        self.0.is_of_content
    }

    /// Whether the remote asked for fewer requests.
    pub fn is_throttled(&self) -> bool {
        self.0.is_throttled
    }

    /// When the remote wants to be asked again, if it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message and every cause below it, joined by `: `.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let line = error.to_string();
            if !text.ends_with(&line) {
                text.push_str(": ");
                text.push_str(&line);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.0.op, self.0.context)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.0.kind, self.report())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_thing_and_leaves_the_cause_to_the_report() {
        let error = Error::io("read", "s3://b/x.pt", std::io::Error::from(std::io::ErrorKind::NotFound));
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), "cannot read `s3://b/x.pt`");
        assert_eq!(error.report(), "cannot read `s3://b/x.pt`: entity not found");
    }

    #[test]
    fn a_remark_comes_after_the_causes_which_are_said_once() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = Error::io("read", "s3://b/x.pt", missing).with_remark("twice").with_remark("in a row");
        assert_eq!(error.to_string(), "cannot read `s3://b/x.pt`: entity not found: twice: in a row");
        assert_eq!((error.report(), error.subject()), (error.to_string(), "s3://b/x.pt"));
        let cause = Error::new(ErrorKind::Corrupt, "decode", "x").because("short").caused_by("short");
        assert_eq!(cause.with_remark("skipped").report(), "cannot decode `x`: short: skipped");
    }

    #[test]
    fn stays_one_pointer_wide() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }
}
