//! Where a run stands: what a checkpoint keeps of a loader.
//!
//! A [`State`] is a position in an epoch, with what is needed to be sure that it means the same when it is restored: seed,
//! shuffle, and the fingerprints of the dataset. It is the same on every rank, and independent of batch size, world size and
//! threads: a run may go on with others. Specified in `docs/formats.md`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::words::read_json;

/// The version written and the only one there is.
pub const VERSION: u32 = 1;

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`VERSION`].
    pub version: u32,
    /// The pass, from 0.
    pub epoch: u64,
    /// Positions of it that were handed out, over all ranks.
    pub position: u64,
    /// What the order is drawn from.
    pub seed: u64,
    /// Whether the order is a permutation.
    pub shuffle: bool,
    /// Samples of the dataset.
    pub samples: u64,
    /// Identifies field names and keys: what an index means.
    pub order_fingerprint: String,
    /// Identifies sizes and versions of the objects.
    pub content_fingerprint: String,
}

impl State {
    /// Reads JSON.
    ///
    /// # Errors
    /// `Invalid` when it is no state, `Unsupported` when it is of another version.
    pub fn from_json(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let wrong = |(path, words): (String, String)| {
            let of = if path == "." { String::new() } else { format!("`{path}`: ") };
            Error::new(ErrorKind::Invalid, "restore", "the loader's state")
                .because(format_args!("it is not what state_dict() returns: {of}{words}"))
        };
        let Versioned { version } = read_json(text).map_err(wrong)?;
        if version != VERSION {
            return Err(Error::new(ErrorKind::Unsupported, "restore", "the loader's state").because(format_args!(
                "it is of version {version}, this Headwater knows version {VERSION}: use the one that wrote it, or a later one"
            )));
        }
        read_json(text).map_err(wrong)
    }

    /// Writes JSON that [`State::from_json`] reads.
    pub fn to_json(&self) -> String {
        // Strings and integers always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Refuses a state that does not belong to `here`: other samples, another order.
    ///
    /// # Errors
    /// `Invalid`, saying what differs and how to go on.
    pub fn check_order(&self, here: &Self) -> Result<()> {
        let differs = |what: &str, theirs: &dyn std::fmt::Display, ours: &dyn std::fmt::Display, hint: &str| {
            Err(Error::new(ErrorKind::Invalid, "restore", "the loader's state")
                .because(format_args!("{what} is {theirs} in the state and {ours} here; {hint}")))
        };
        if self.samples != here.samples {
            return differs(
                "the number of samples",
                &self.samples,
                &here.samples,
                "open the dataset it was saved with",
            );
        }
        if self.order_fingerprint != here.order_fingerprint {
            let hint = "the names of fields or keys of samples are others: open the dataset it was saved with";
            return differs("the order fingerprint", &self.order_fingerprint, &here.order_fingerprint, hint);
        }
        if self.shuffle != here.shuffle {
            return differs("shuffle", &self.shuffle, &here.shuffle, "give the loader the same");
        }
        // Also of an order that is not shuffled: what is drawn for samples, and what stands in for bad ones, follows from it.
        if self.seed != here.seed {
            return differs("seed", &self.seed, &here.seed, "give the loader the same");
        }
        if self.position > self.samples {
            return differs("the position", &self.position, &format_args!("at most {}", self.samples), "it is damaged");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            version: VERSION,
            epoch: 2,
            position: 48,
            seed: 7,
            shuffle: true,
            samples: 100,
            order_fingerprint: "aa".into(),
            content_fingerprint: "bb".into(),
        }
    }

    /// Golden bytes: only ever added to.
    const GOLDEN: &str = r#"{"version":1,"epoch":2,"position":48,"seed":7,"shuffle":true,"samples":100,"order_fingerprint":"aa","content_fingerprint":"bb"}"#;

    #[test]
    fn is_written_and_read_as_it_always_was() {
        assert_eq!(state().to_json(), GOLDEN);
        assert_eq!(State::from_json(GOLDEN).expect("state"), state());
    }

    #[test]
    fn what_is_no_state_is_refused_in_words() {
        for (text, words) in [
            ("{}", "not what state_dict() returns: missing setting `version`"),
            (r#"{"version":2,"anything":1}"#, "it is of version 2, this Headwater knows version 1"),
            (r#"{"version":1,"epoch":0}"#, "missing setting `position`"),
            (&GOLDEN.replace("\"seed\"", "\"sead\""), "unknown setting `sead`"),
            (
                &GOLDEN.replace("48", "-48"),
                "`position`: invalid value: whole number `-48`, expected a whole number, 0 or more",
            ),
        ] {
            let error = State::from_json(text).expect_err("refused").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_state_of_something_else_says_what_differs() {
        let refused = |change: fn(&mut State)| {
            let mut other = state();
            change(&mut other);
            other.check_order(&state()).expect_err("refused").to_string()
        };
        assert!(refused(|state| state.samples = 99).contains("the number of samples is 99 in the state and 100 here"));
        assert!(refused(|state| state.order_fingerprint = "cc".into()).contains("order fingerprint is cc"));
        assert!(refused(|state| state.seed = 8).contains("seed is 8 in the state and 7 here"));
        assert!(refused(|state| state.shuffle = false).contains("shuffle is false in the state and true here"));
        assert!(refused(|state| state.position = 101).contains("position is 101"));
        let unshuffled = State { shuffle: false, ..state() };
        let other = State { seed: 9, ..unshuffled.clone() };
        let error = other.check_order(&unshuffled).expect_err("seeds of samples would differ").to_string();
        assert!(error.contains("seed is 9 in the state and 7 here"), "{error}");
    }
}
