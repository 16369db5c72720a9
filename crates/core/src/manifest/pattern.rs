//! How a sample's key is found in the names of its objects.

use std::borrow::Cow;

use crate::error::{Error, ErrorKind, Result};

/// A file name pattern with one `*`, which stands for the key: `latent_*` finds key `a/0007` in `a/latent_0007.pt`.
///
/// The default, `*`, takes the whole stem as key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyPattern {
    before: String,
    after: String,
}

impl KeyPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// `Invalid` when there is not exactly one `*`, or a `/`.
    pub fn parse(pattern: &str) -> Result<Self> {
        match pattern.split_once('*') {
            Some((before, after)) if !after.contains('*') && !pattern.contains('/') => {
                Ok(Self { before: before.to_owned(), after: after.to_owned() })
            }
            _ => Err(Error::new(ErrorKind::Invalid, "use pair pattern", pattern).because(
                "a pattern is a file name without suffix and folder, with one `*` for the key, like `latent_*`",
            )),
        }
    }

    /// The pattern of names that begin and end so.
    pub(super) fn around(before: &str, after: &str) -> Self {
        Self { before: before.to_owned(), after: after.to_owned() }
    }

    /// The key within a stem (object key without suffixes); `None` when the file name does not match.
    pub fn key_in<'a>(&self, stem: &'a str) -> Option<Cow<'a, str>> {
        let (folder, name) = split(stem);
        let key = name.strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        if key.is_empty() {
            return None;
        }
        // Nothing lies between them: one part of the stem.
        let is_whole = self.before.is_empty();
        Some(if is_whole { stem[..folder.len() + key.len()].into() } else { [folder, key].concat().into() })
    }

    /// The object key again.
    pub(super) fn object_key(&self, root: &str, key: &str, suffix: &str) -> String {
        let (folder, name) = split(key);
        [root, folder, &self.before, name, &self.after, suffix].concat()
    }
}

impl std::fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}*{}", self.before, self.after)
    }
}

/// Folder with its slash, and file name.
fn split(path: &str) -> (&str, &str) {
    path.split_at(path.rfind('/').map_or(0, |slash| slash + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_key_and_gives_the_object_back() {
        let pattern = KeyPattern::parse("latent_*_v2").expect("pattern");
        assert_eq!(pattern.key_in("a/b/latent_0007_v2").as_deref(), Some("a/b/0007"));
        assert_eq!(pattern.object_key("run/", "a/b/0007", ".pt.zst"), "run/a/b/latent_0007_v2.pt.zst");
        for other in ["a/latent_0007", "latent__v2", "condition_0007_v2", "latent_0007_v2/x"] {
            assert_eq!(pattern.key_in(other), None, "{other}");
        }
        assert_eq!(KeyPattern::default().key_in("a/b").as_deref(), Some("a/b"));
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        for wrong in ["", "latent", "*_*", "a/*"] {
            let error = KeyPattern::parse(wrong).expect_err("no pattern");
            assert!(error.to_string().contains("with one `*` for the key"), "{error}");
        }
    }
}
