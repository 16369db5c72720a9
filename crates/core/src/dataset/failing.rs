//! What becomes of samples that cannot be read: `on_error`.

use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;

use super::Inner;
use crate::config::OnError;
use crate::engine::Questions;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metric;

/// So many failures without a sample that could be read are no longer single bad samples.
const MOST_IN_A_ROW: u64 = 100;

/// How long the user's function may take to decide about one.
const ASK_DEADLINE: Duration = Duration::from_secs(30);

/// Samples that failed, of a dataset.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since one could be read.
    in_a_row: u64,
    /// Left out or substituted so far.
    spared: u64,
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
    /// Whether an error of a sample ends the batch, whatever the other samples come to.
    pub(crate) fn is_raised(&self, error: &Error) -> bool {
        use ErrorKind::{Internal, Interrupted, Invalid, OutOfRange};
        self.config.on_error == OnError::Raise || matches!(error.kind(), Internal | Interrupted | Invalid | OutOfRange)
    }

    /// Takes note of how samples of a batch came out, in their order, and says what is done about those that failed: one verdict
    /// for each. A batch keeps at least one sample, be it a substitute.
    ///
    /// # Errors
    /// That of a sample that is to be raised, also because too many failed one after the other.
    pub(crate) async fn judge<'a>(
        &self,
        outcomes: impl Iterator<Item = (usize, Option<&'a Error>)>,
        others_are_read: bool,
    ) -> Result<Vec<Verdict>> {
        let mut judged = Vec::new();
        let mut keeps_one = others_are_read;
        for (sample, failed) in outcomes {
            let Some(error) = failed else {
                self.failures.state.lock().in_a_row = 0;
                keeps_one = true;
                continue;
            };
            self.metrics.record(&[(Metric::SampleErrors, 1)]);
            let verdict = self.verdict(sample, error).await?;
            if verdict == Verdict::Raise {
                return Err(error.clone());
            }
            self.another_failed(error)?;
            keeps_one |= verdict == Verdict::Substitute;
            judged.push((sample, error, verdict));
        }
        if let Some((.., verdict)) = judged.first_mut().filter(|_| !keeps_one) {
            *verdict = Verdict::Substitute;
        }
        Ok(judged.into_iter().map(|(sample, error, verdict)| self.spared(sample, error, verdict)).collect())
    }

    /// Takes note of a batch of samples that could all be read.
    pub(crate) fn all_were_read(&self) {
        if self.config.on_error != OnError::Raise {
            self.failures.state.lock().in_a_row = 0;
        }
    }

    async fn verdict(&self, sample: usize, error: &Error) -> Result<Verdict> {
        match &self.config.on_error {
            _ if self.is_raised(error) => Ok(Verdict::Raise),
            OnError::Raise => Ok(Verdict::Raise),
            OnError::Skip => Ok(Verdict::Skip),
            OnError::Substitute => Ok(Verdict::Substitute),
            OnError::Ask(name) => {
                let wrong = |reason: &dyn std::fmt::Display| error.clone().because(format_args!("on_error: {reason}"));
                let about = serde_json::json!({
                    "key": self.manifest.key(sample).unwrap_or_default(),
                    "kind": format!("{:?}", error.kind()),
                    "message": error.report(),
                });
                let answer = Questions::current()?.ask(&format!("{name}\n{about}"), ASK_DEADLINE).await;
                let answer = answer.map_err(|failed| wrong(&failed.report()))?;
                serde_json::from_str(&answer).map_err(|_| wrong(&format_args!("its answer was {answer}")))
            }
        }
    }

    /// Counts one more in a row.
    fn another_failed(&self, error: &Error) -> Result<()> {
        let mut state = self.failures.state.lock();
        state.in_a_row += 1;
        if state.in_a_row < MOST_IN_A_ROW {
            return Ok(());
        }
        let in_a_row = std::mem::take(&mut state.in_a_row);
        Err(error.clone().because(format_args!("{in_a_row} samples in a row could not be read")))
    }

    fn spared(&self, sample: usize, error: &Error, verdict: Verdict) -> Verdict {
        let (metric, done) = match verdict {
            Verdict::Substitute => (Metric::SamplesSubstituted, "taking another one in its place"),
            _ => (Metric::SamplesSkipped, "leaving it out"),
        };
        self.metrics.record(&[(metric, 1)]);
        let total = {
            let mut state = self.failures.state.lock();
            state.spared += 1;
            state.spared
        };
        // The first, and then fewer and fewer: a set with many bad samples must not fill the log.
        if total == 1 || total >= 8 && total.is_power_of_two() {
            let key = self.manifest.key(sample).unwrap_or_default();
            tracing::warn!("cannot read sample `{key}`, {done} ({total} so far): {}", error.report());
        }
        verdict
    }
}
