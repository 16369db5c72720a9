//! What to do about samples that cannot be read.

use serde::{Deserialize, Serialize};

/// What a loader does about a sample that cannot be read or decoded. Whatever it is, all ranks take equally many steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum OnError {
    /// Fail with its error.
    #[default]
    Raise,
    /// Leave it out: that batch is shorter.
    Skip,
    /// Take another one in its place ([`substitute`](crate::order::substitute())).
    Substitute,
    /// Ask under this name whoever answers the process's [questions](crate::engine::Questions): the name, a line break, and a JSON
    /// object of `key`, `kind` and `message`. The answer is a JSON string: `raise`, `skip` or `substitute`. Written `ask:NAME`.
    Ask(String),
}

impl TryFrom<String> for OnError {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "raise" => Ok(Self::Raise),
            "skip" => Ok(Self::Skip),
            "substitute" => Ok(Self::Substitute),
            _ => match text.strip_prefix("ask:") {
                Some(name) => Ok(Self::Ask(name.to_owned())),
                None => Err(format!("unknown on_error `{text}`, expected `raise`, `skip` or `substitute`")),
            },
        }
    }
}

impl From<OnError> for String {
    fn from(on_error: OnError) -> Self {
        match on_error {
            OnError::Raise => "raise".into(),
            OnError::Skip => "skip".into(),
            OnError::Substitute => "substitute".into(),
            OnError::Ask(name) => format!("ask:{name}"),
        }
    }
}
