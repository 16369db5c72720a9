//! Questions to a thread that is not ours: what only the host language can answer.
//!
//! Native threads never attach to Python, so they queue what they want to know; threads of the host's take questions, and
//! answer them. The queue is bounded, and every question has a deadline. The same is never asked twice at once: who is slow to
//! answer one question keeps one thread busy, and the others answer the rest.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::PerProcess;
use crate::error::{Error, ErrorKind, Result};

/// Questions that may wait.
const CAPACITY: usize = 64;

/// The questions of this process.
#[derive(Debug, Default)]
pub struct Questions {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(u64, String)>,
    asked: HashMap<u64, oneshot::Sender<Result<String>>>,
    /// Taken, and not answered yet.
    taken: HashMap<u64, String>,
    numbers: u64,
    is_closed: bool,
}

static CURRENT: PerProcess<Questions> = PerProcess::new();

impl Questions {
    /// Those of this process.
    ///
    /// # Errors
    /// None at present.
    pub fn current() -> Result<&'static Self> {
        CURRENT.get_or_try_init(|| Ok(Self::default()))
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The answer's own; `Timeout` when nobody answers in time; `Unavailable` when too many wait or nobody will answer any more.
    pub async fn ask(&self, question: &str, deadline: Duration) -> Result<String> {
        // What it is about is nobody's business but the answerer's.
        let subject = question.lines().next().unwrap_or_default();
        let (answer, answered) = oneshot::channel();
        let number = {
            let mut state = self.state.lock();
            if state.is_closed || state.asked.len() >= CAPACITY {
                let reason = if state.is_closed { "the process is ending" } else { "too many wait already" };
                return Err(Error::new(ErrorKind::Unavailable, "ask", subject).because(reason));
            }
            state.numbers += 1;
            let number = state.numbers;
            state.waiting.push_back((number, question.to_owned()));
            state.asked.insert(number, answer);
            number
        };
        // Whoever leaves takes the question back.
        let _asked = Asked { of: self, number };
        self.arrived.notify_one();
        match tokio::time::timeout(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::new(ErrorKind::Unavailable, "ask", subject).because("the process is ending")),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "ask", subject)
                .because(format_args!("no answer after {} s", deadline.as_secs()))),
        }
    }

    /// Takes the next question that nobody is answering, with its number. `None` after a while without one, and for ever once
    /// closed.
    pub fn next(&self, patience: Duration) -> Option<(u64, String)> {
        let ends = Instant::now() + patience;
        let mut state = self.state.lock();
        loop {
            let is_free = |(_, question): &(u64, String)| !state.taken.values().any(|taken| taken == question);
            if let Some(place) = state.waiting.iter().position(is_free) {
                let (number, question) = state.waiting.remove(place)?;
                state.taken.insert(number, question.clone());
                return Some((number, question));
            }
            if state.is_closed {
                return None;
            }
            let is_over;
            (state, is_over) = self.arrived.wait_for(state, ends.saturating_duration_since(Instant::now()));
            if is_over {
                return None;
            }
        }
    }

    /// Answers a question by its number; whoever asked may have left.
    pub fn answer(&self, number: u64, answer: Result<String>) {
        let mut state = self.state.lock();
        state.taken.remove(&number);
        // The same may be asked again.
        self.arrived.notify_one();
        if let Some(asked) = state.asked.remove(&number) {
            let _ = asked.send(answer);
        }
    }

    /// Nobody will answer any more.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.waiting.clear();
        state.asked.clear();
        self.arrived.notify_all();
    }
}

struct Asked<'a> {
    of: &'a Questions,
    number: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut state = self.of.state.lock();
        state.asked.remove(&self.number);
        state.waiting.retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_is_answered_once_or_not_in_time() {
        let questions = Questions::default();
        let asking = questions.ask("what", Duration::from_secs(10));
        let answering = async {
            let (number, question) = questions.next(Duration::from_secs(1)).expect("asked");
            assert_eq!(question, "what");
            questions.answer(number, Ok("that".to_owned()));
            questions.answer(number, Ok("twice".to_owned()));
        };
        let (answer, ()) = tokio::join!(asking, answering);
        assert_eq!(answer.expect("answered"), "that");
        let error = questions.ask("who", Duration::from_millis(20)).await.expect_err("nobody");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(questions.next(Duration::ZERO), None, "what nobody waits for is not asked");
        questions.close();
        assert_eq!(
            questions.ask("x", Duration::from_secs(9)).await.expect_err("closed").kind(),
            ErrorKind::Unavailable
        );
    }

    #[tokio::test]
    async fn a_slow_answer_holds_up_only_its_own_question() {
        let questions = Questions::default();
        let ask = |question| questions.ask(question, Duration::from_secs(10));
        let answering = async {
            let next = || questions.next(Duration::ZERO);
            let (slow, question) = next().expect("asked");
            assert_eq!(question, "slow");
            let (quick, question) = next().expect("asked");
            assert_eq!((question.as_str(), next()), ("quick", None));
            questions.answer(quick, Ok("there".to_owned()));
            assert_eq!(next(), None);
            questions.answer(slow, Ok("first".to_owned()));
            let (slow, question) = next().expect("asked twice");
            assert_eq!((question.as_str(), next()), ("slow", None));
            questions.answer(slow, Ok("second".to_owned()));
        };
        let (first, second, quick, ()) = tokio::join!(ask("slow"), ask("slow"), ask("quick"), answering);
        let answers = [first, second, quick].map(|answer| answer.expect("answered"));
        assert_eq!(answers, ["first", "second", "there"]);
    }
}
