//! The body of an answer: one piece as fast as it goes, or steps that wait, pause and break off.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep, sleep_until};

use super::pace::Pace;
use super::wire::Control;

/// Bytes sent between two looks at the clock.
const CHUNK: usize = 128 << 10;

#[derive(Debug)]
pub(super) enum Step {
    Send(Bytes),
    Wait(Duration),
    /// Ends the connection once all before has left, with a reset or with a goodbye.
    Break {
        reset: bool,
    },
}

#[derive(Debug)]
pub(super) enum Body {
    Whole(Bytes),
    Steps(Box<Steps>),
}

#[derive(Debug)]
pub(super) struct Steps {
    ahead: VecDeque<Step>,
    pace: Option<Pace>,
    control: Arc<Control>,
    sent: usize,
    /// What is due when the sleep ends.
    chunk: Option<Bytes>,
    sleep: Option<Pin<Box<Sleep>>>,
    breaking_since: Option<u64>,
}

impl Body {
    pub(super) fn of_steps(steps: impl Into<VecDeque<Step>>, pace: Option<Pace>, control: Arc<Control>) -> Self {
        let ahead = steps.into();
        Self::Steps(Box::new(Steps { ahead, pace, control, sent: 0, chunk: None, sleep: None, breaking_since: None }))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Steps(steps) => steps.poll(context).map(|found| found.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Steps(_) => SizeHint::default(), // the header says, or it is sent in chunks
        }
    }
}

impl Steps {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(context));
                self.sleep = None;
            }
            if let Some(chunk) = self.chunk.take() {
                return Poll::Ready(Some(Ok(chunk)));
            }
            match self.ahead.front_mut() {
                None => return Poll::Ready(None),
                Some(Step::Send(bytes)) if bytes.is_empty() => drop(self.ahead.pop_front()),
                Some(Step::Send(bytes)) => {
                    let chunk = bytes.split_to(bytes.len().min(if self.pace.is_some() { CHUNK } else { usize::MAX }));
                    self.sent += chunk.len();
                    self.sleep = self.pace.as_ref().map(|pace| Box::pin(sleep_until(pace.due(self.sent))));
                    self.chunk = Some(chunk);
                }
                Some(Step::Wait(time)) => {
                    self.sleep = Some(Box::pin(sleep(*time)));
                    self.ahead.pop_front();
                }
                Some(Step::Break { reset }) => {
                    ready!(self.control.poll_flushed(&mut self.breaking_since, context));
                    if *reset {
                        self.control.reset();
                    }
                    return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
                }
            }
        }
    }
}
