//! Credentials that are asked for once for all who need them, and why there are none.

use std::time::Instant;

use parking_lot::Mutex;

use crate::error::ErrorKind;

/// Why a request is not signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    /// In words, which are shown.
    pub(crate) words: String,
    /// Whether asking again may help.
    pub(crate) may_pass: bool,
}

impl Missing {
    pub(crate) fn for_good(words: impl Into<String>) -> Self {
        Self { words: words.into(), may_pass: false }
    }

    pub(crate) fn for_now(words: impl Into<String>) -> Self {
        Self { words: words.into(), may_pass: true }
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        if self.may_pass { ErrorKind::Unavailable } else { ErrorKind::Denied }
    }

    /// Adds what to do about it, where waiting will not do.
    pub(crate) fn hinted(self, hint: &str) -> Self {
        if self.may_pass { self } else { Self { words: format!("{}; {hint}", self.words), ..self } }
    }
}

/// What was given last, and when.
pub(super) struct Kept<V> {
    last: Mutex<Option<(Instant, Result<V, Missing>)>>,
    /// Held while somebody asks.
    turn: tokio::sync::Mutex<()>,
}

impl<V: Clone> Kept<V> {
    pub(super) fn new() -> Self {
        Self { last: Mutex::new(None), turn: tokio::sync::Mutex::new(()) }
    }

    /// What is kept while it is fresh, else what `ask` gives, and when it was given. Those who come while somebody asks share the
    /// answer, a failure too.
    pub(super) async fn get<F: Future<Output = Result<V, Missing>>>(
        &self,
        is_fresh: impl Fn(&V) -> bool,
        ask: impl FnOnce() -> F,
    ) -> Result<(V, Instant), Missing> {
        let came = Instant::now();
        let fresh = |at: &Instant, given: &Result<V, Missing>| given.as_ref().is_ok_and(&is_fresh) || *at >= came;
        if let Some(given) = self.last(|_, given| given.as_ref().is_ok_and(&is_fresh)) {
            return given;
        }
        let _turn = self.turn.lock().await;
        if let Some(given) = self.last(fresh) {
            return given;
        }
        let (given, at) = (ask().await, Instant::now());
        *self.last.lock() = Some((at, given.clone()));
        given.map(|value| (value, at))
    }

    /// Drops what was given then, unless it is replaced already.
    pub(super) fn forget(&self, given: Instant) {
        self.last.lock().take_if(|(at, _)| *at == given);
    }

    fn last(&self, is_it: impl Fn(&Instant, &Result<V, Missing>) -> bool) -> Option<Result<(V, Instant), Missing>> {
        let last = self.last.lock();
        let (at, given) = last.as_ref().filter(|(at, given)| is_it(at, given))?;
        Some(given.clone().map(|value| (value, *at)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;

    use super::*;

    /// Asks eight times at once; what was given, and how often somebody was asked.
    async fn asked_together(kept: &Kept<u32>, given: Result<u32, Missing>) -> (Vec<Result<u32, Missing>>, u32) {
        let asked = AtomicU32::new(0);
        let (asked, given) = (&asked, &given);
        let ask = || async move {
            asked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            given.clone()
        };
        let all = join_all((0..8).map(|_| kept.get(|value| *value > 1, ask))).await;
        let all = all.into_iter().map(|given| given.map(|(value, _)| value)).collect();
        (all, asked.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn those_who_ask_together_share_one_answer_and_one_failure() {
        let kept = Kept::new();
        let failed = Err(Missing::for_now("the service is gone"));
        assert_eq!(asked_together(&kept, failed.clone()).await, (vec![failed; 8], 1));
        assert_eq!(asked_together(&kept, Ok(1)).await, (vec![Ok(1); 8], 1), "what does not stay fresh is shared too");
        assert_eq!(asked_together(&kept, Ok(2)).await, (vec![Ok(2); 8], 1), "but not kept");
        assert_eq!(asked_together(&kept, Ok(3)).await, (vec![Ok(2); 8], 0), "as what is fresh");
    }

    #[tokio::test]
    async fn what_was_refused_is_forgotten_once() {
        let kept = Kept::new();
        let get = |value| kept.get(|_| true, move || async move { Ok(value) });
        let (first, given) = get(1).await.expect("given");
        kept.forget(given);
        let (second, given_anew) = get(2).await.expect("given");
        kept.forget(given);
        assert_eq!((first, second, get(3).await), (1, 2, Ok((2, given_anew))), "the refusal was of what is replaced");
    }
}
