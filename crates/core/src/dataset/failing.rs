//! What becomes of samples that cannot be read: `on_error`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;

use super::Inner;
use crate::config::OnError;
use crate::engine::Questions;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metric;

/// So many failures without a sample that could be read are no longer single bad samples.
const MOST_IN_A_ROW: u64 = 100;

/// Samples that the user's function is asked about at once.
pub(super) const ASKED_AT_ONCE: usize = 4;

/// How long the user's function may take to decide about one.
const ASK_DEADLINE: Duration = Duration::from_secs(30);

/// How the samples of a batch came out, one after the other: what is needed to count failures in a row over batches, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcomes {
    /// Failures before the first that could be read.
    leading: u64,
    /// Failures since the last that could be.
    trailing: u64,
    any_was_read: bool,
    last: Option<Error>,
}

impl Outcomes {
    /// Counts one that could be read, or several in a row.
    pub(crate) fn another_was_read(&mut self) {
        self.any_was_read = true;
        self.trailing = 0;
    }

    /// Counts one more in a row.
    fn another_failed(&mut self, error: &Error) -> Result<()> {
        self.trailing += 1;
        self.leading += u64::from(!self.any_was_read);
        self.last = Some(error.clone());
        too_many(self.trailing, error)
    }

    /// Failures in a row once these have come after so many.
    ///
    /// # Errors
    /// The last one's, when they are too many.
    pub(crate) fn after(&self, in_a_row: u64) -> Result<u64> {
        let Some(last) = &self.last else { return Ok(0) };
        too_many(in_a_row + self.leading, last)?;
        Ok(if self.any_was_read { self.trailing } else { in_a_row + self.trailing })
    }
}

fn too_many(in_a_row: u64, error: &Error) -> Result<()> {
    if in_a_row < MOST_IN_A_ROW {
        return Ok(());
    }
    Err(error.clone().with_remark(format_args!("{in_a_row} samples in a row could not be read")))
}

/// What is done about one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Raise,
    Skip,
    Substitute,
}

impl Inner {
    /// The error with which a sample's ends its batch, whatever the other samples come to; `None` when `on_error` decides.
    ///
    /// Where other ranks read the same samples, each for itself, all of them must get the same batches: there only what every one of
    /// them finds alike is decided about, which is damage to the object itself.
    pub(crate) fn raised(&self, error: &Error) -> Option<Error> {
        use ErrorKind::{Internal, Interrupted, Invalid, OutOfRange};
        if self.config.on_error == OnError::Raise
            || matches!(error.kind(), Internal | Interrupted | Invalid | OutOfRange)
        {
            return Some(error.clone());
        }
        let may_pass = self.has_replicas.load(Ordering::Relaxed) && !error.is_of_content();
        may_pass.then(|| {
            error.clone().with_remark(
                "other ranks that read the same samples may have got it, so that on_error does not hold: with replication or \
                 process_group only objects that nobody can decode are left out or substituted",
            )
        })
    }

    /// The error of a sample that was asked for by index, for which nothing else can be handed out.
    pub(crate) fn raised_by_index(&self, error: Error) -> Error {
        if let Some(raised) = self.raised(&error) {
            return raised;
        }
        error.with_remark(
            "it was asked for by index, for which on_error does not hold: it does for a loader, and for a DataLoader with a batch_size \
             around this dataset alone; a ConcatDataset needs a __getitems__ that asks each dataset for its part of a batch",
        )
    }

    /// Takes note of how samples of a batch came out, in their order, and says what is done about those that failed: one verdict
    /// for each. A batch keeps at least one sample, be it a substitute.
    ///
    /// # Errors
    /// That of a sample that is to be raised, also because too many failed one after the other.
    pub(crate) async fn judge<'a>(
        &self,
        tried: impl Iterator<Item = (usize, Option<&'a Error>)>,
        others_are_read: bool,
        outcomes: &mut Outcomes,
    ) -> Result<Vec<Verdict>> {
        let mut judged = Vec::new();
        let mut keeps_one = others_are_read;
        for (sample, failed) in tried {
            let Some(error) = failed else {
                outcomes.another_was_read();
                keeps_one = true;
                continue;
            };
            self.metrics.record(&[(Metric::SampleErrors, 1)]);
            let verdict = self.verdict(sample, error).await?;
            if verdict == Verdict::Raise {
                return Err(error.clone());
            }
            outcomes.another_failed(error)?;
            keeps_one |= verdict == Verdict::Substitute;
            judged.push((sample, error, verdict));
        }
        if let Some((.., verdict)) = judged.first_mut().filter(|_| !keeps_one) {
            *verdict = Verdict::Substitute;
        }
        Ok(judged.into_iter().map(|(sample, error, verdict)| self.spared(sample, error, verdict)).collect())
    }

    async fn verdict(&self, sample: usize, error: &Error) -> Result<Verdict> {
        match &self.config.on_error {
            OnError::Raise => Ok(Verdict::Raise),
            OnError::Skip => Ok(Verdict::Skip),
            OnError::Substitute => Ok(Verdict::Substitute),
            OnError::Ask(name) => {
                let wrong = |reason: &str| {
                    // A function may raise the error it is asked about, or what repeats it.
                    let reason = reason.replace(&error.report(), "this");
                    error.clone().with_remark(format_args!("on_error: {reason}"))
                };
                let about = serde_json::json!({
                    "key": self.manifest.key(sample).unwrap_or_default(),
                    "kind": format!("{:?}", error.kind()),
                    "message": error.report(),
                });
                // Few at once, so that who answers is free for the next, and for other questions, when it is asked.
                let _turn = self.kept()?.asking.acquire().await;
                let answer = Questions::current()?.ask(&format!("{name}\n{about}"), ASK_DEADLINE).await;
                let answer = answer.map_err(|failed| wrong(&failed.report()))?;
                serde_json::from_str(&answer).map_err(|_| wrong(&format!("its answer was {answer}")))
            }
        }
    }

    fn spared(&self, sample: usize, error: &Error, verdict: Verdict) -> Verdict {
        let (metric, done) = match verdict {
            Verdict::Substitute => (Metric::SamplesSubstituted, "taking another one in its place"),
            _ => (Metric::SamplesSkipped, "leaving it out"),
        };
        self.metrics.record(&[(metric, 1)]);
        let total = self.spared.fetch_add(1, Ordering::Relaxed) + 1;
        // The first, and then fewer and fewer: a set with many bad samples must not fill the log.
        if total == 1 || total >= 8 && total.is_power_of_two() {
            let key = self.manifest.key(sample).unwrap_or_default();
            tracing::warn!("cannot read sample `{key}`, {done} ({total} so far): {}", error.report());
        }
        verdict
    }
}
