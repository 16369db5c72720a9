//! Credentials that are asked for once for all who need them, and why there are none.

use std::time::{Duration, Instant};

use crate::sync::Mutex;

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

/// Whoever asked in vain is asked again after this, while what is kept can be used.
const PAUSE: Duration = Duration::from_secs(15);

/// What was given last, and when.
pub(super) struct Kept<V> {
    last: Mutex<Option<Last<V>>>,
    /// Held while somebody asks.
    turn: tokio::sync::Mutex<()>,
}

struct Last<V> {
    at: Instant,
    given: Result<V, Missing>,
    /// When others were asked for in vain since.
    missed: Option<tokio::time::Instant>,
}

impl<V: Clone> Kept<V> {
    pub(super) fn new() -> Self {
        Self { last: Mutex::new(None), turn: tokio::sync::Mutex::new(()) }
    }

    /// What is kept while it is fresh, else what `ask` gives, and when it was given. Those who come while somebody asks share the
    /// answer, a failure too. What is not fresh but can be used is, as long as a failure may pass.
    pub(super) async fn get<F: Future<Output = Result<V, Missing>>>(
        &self,
        is_fresh: impl Fn(&V) -> bool,
        is_usable: impl Fn(&V) -> bool,
        ask: impl FnOnce() -> F,
    ) -> Result<(V, Instant), Missing> {
        let came = Instant::now();
        let is_kept = |last: &Last<V>| {
            let is_pausing = last.missed.is_some_and(|missed| missed.elapsed() < PAUSE);
            last.given.as_ref().is_ok_and(|value| is_fresh(value) || is_pausing && is_usable(value))
        };
        if let Some(given) = self.last(is_kept) {
            return given;
        }
        let _turn = self.turn.lock().await;
        if let Some(given) = self.last(|last| is_kept(last) || last.at >= came) {
            return given;
        }
        let (given, at) = (ask().await, Instant::now());
        let mut last = self.last.lock();
        if let (Some(last), Err(missing)) = (&mut *last, &given)
            && missing.may_pass
            && let Ok(value) = &last.given
            && is_usable(value)
        {
            tracing::warn!("new credentials are not there yet, the old ones are used: {}", missing.words);
            last.missed = Some(tokio::time::Instant::now());
            return Ok((value.clone(), last.at));
        }
        // Whoever gives what will soon expire has no other yet.
        let is_old = given.as_ref().is_ok_and(|value| !is_fresh(value));
        *last = Some(Last { at, given: given.clone(), missed: is_old.then(tokio::time::Instant::now) });
        given.map(|value| (value, at))
    }

    /// Drops what was given then, unless it is replaced already.
    pub(super) fn forget(&self, given: Instant) {
        self.last.lock().take_if(|last| last.at == given);
    }

    fn last(&self, is_it: impl Fn(&Last<V>) -> bool) -> Option<Result<(V, Instant), Missing>> {
        let last = self.last.lock();
        let last = last.as_ref().filter(|last| is_it(last))?;
        Some(last.given.clone().map(|value| (value, last.at)))
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
        let all = join_all((0..8).map(|_| kept.get(|value| *value > 1, |_| false, ask))).await;
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

    #[tokio::test(start_paused = true)]
    async fn what_will_soon_expire_is_used_while_there_is_no_other_and_nobody_is_asked_all_the_time() {
        let kept = Kept::new();
        let asked = AtomicU32::new(0);
        let get = |given: Result<u32, Missing>| {
            let ask = || async {
                asked.fetch_add(1, Ordering::SeqCst);
                given
            };
            let got = kept.get(|value| *value > 1, |value| *value > 0, ask);
            async { got.await.map(|(value, _)| value) }
        };
        let failed = || Err(Missing::for_now("the service is gone"));
        for times in 1..4 {
            // The same old one again, or none.
            for given in [if times == 2 { failed() } else { Ok(1) }, failed(), Ok(1)] {
                assert_eq!(get(given).await, Ok(1));
            }
            assert_eq!(asked.load(Ordering::SeqCst), times);
            tokio::time::advance(PAUSE).await;
        }
        assert_eq!(get(Ok(3)).await, Ok(3));
        let kept = Kept::new();
        assert_eq!(kept.get(|_| false, |value| *value > 0, || async { Ok(0) }).await.map(|(value, _)| value), Ok(0));
        let gone = kept.get(|_| false, |value| *value > 0, || async { failed() }).await;
        assert_eq!(gone.map(|(value, _)| value), failed(), "what has expired is not used");
    }

    #[tokio::test]
    async fn what_was_refused_is_forgotten_once() {
        let kept = Kept::new();
        let get = |value| kept.get(|_| true, |_| true, move || async move { Ok(value) });
        let (first, given) = get(1).await.expect("given");
        kept.forget(given);
        let (second, given_anew) = get(2).await.expect("given");
        kept.forget(given);
        assert_eq!((first, second, get(3).await), (1, 2, Ok((2, given_anew))), "the refusal was of what is replaced");
    }
}
