//! Steps of which samples could not be read: they go on without them, or with others in their place.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::prepare::{Part, UnderWay};
use super::sampler::{Row, Step};
use crate::dataset::Verdict;
use crate::error::{Error, Result};
use crate::order::substitute;

impl UnderWay {
    /// Goes on as the dataset's `on_error` says about what `failed`, by its place among the parts.
    pub(super) fn mend(self: Arc<Self>, parts: Vec<Option<Part>>, failed: Vec<(usize, Error)>) {
        self.mended.store(true, Ordering::Relaxed);
        let Some(ticket) = self.take_ticket() else { return };
        let progress = ticket.progress().clone();
        let prepare = self.prepare.clone();
        // The user's function may be asked, for which no worker is to wait.
        let cancel = prepare.engine.spawn(async move {
            match self.without(parts, failed).await {
                Ok((step, parts)) => {
                    let prepare = self.prepare.clone();
                    self.prepare.workers.spawn(move || prepare.gather(step, parts, ticket));
                }
                Err(error) => ticket.complete(Err(error)),
            }
        });
        progress.on_cancel(cancel);
    }

    async fn without(
        &self,
        parts: Vec<Option<Part>>,
        mut failed: Vec<(usize, Error)>,
    ) -> Result<(Step, Vec<Option<Part>>)> {
        let (dataset, step) = (&self.prepare.dataset, &self.step);
        failed.sort_by_key(|(at, _)| *at);
        let mut errors: Vec<Option<Error>> = step.rows.iter().map(|_| None).collect();
        for (at, error) in failed {
            errors[self.row_of(at)].get_or_insert(error);
        }
        let mut outcomes = step.outcomes.clone();
        let tried = step.rows.iter().zip(&errors).filter(|(row, _)| !row.is_read);
        let others_are_read = step.rows.iter().any(|row| row.is_read);
        let tried = tried.map(|(row, error)| (row.index, error.as_ref()));
        let mut verdicts = dataset.judge(tried, others_are_read, &mut outcomes).await?.into_iter();

        let (mut rows, mut kept) = (Vec::with_capacity(step.rows.len()), Vec::with_capacity(parts.len()));
        let mut parts = parts.into_iter();
        for (&row, error) in step.rows.iter().zip(&errors) {
            let of_row = parts.by_ref().take(dataset.names.len());
            match error.as_ref().and_then(|_| verdicts.next()) {
                None => {
                    rows.push(Row { is_read: true, ..row });
                    kept.extend(of_row);
                }
                Some(Verdict::Substitute) => {
                    rows.push(self.substitute(row));
                    kept.extend(of_row.map(|_| None));
                }
                Some(_) => of_row.for_each(drop),
            }
        }
        Ok((Step { rows, outcomes, ..step.clone() }, kept))
    }

    fn substitute(&self, row: Row) -> Row {
        let samples = self.prepare.dataset.manifest.len();
        let index = substitute(samples, self.prepare.seed, self.step.epoch, row.position as u64, row.attempts);
        Row { index, attempts: row.attempts + 1, ..row }
    }
}
