//! Log records of the core, handed to Python's `logging`.
//!
//! Native threads never attach to Python: they put records into a bounded queue, and the next call from Python that returns, or that
//! looks for signals while it waits, hands them on under the GIL. A full queue drops and counts. Each process has its own queue, so a
//! fork while another thread logs does no harm.

use std::collections::VecDeque;
use std::fmt::{Debug, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use headwater::engine::PerProcess;
use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::ending::Inside;

const CAPACITY: usize = 256;

static QUEUE: PerProcess<Mutex<VecDeque<(Level, String)>>> = PerProcess::new();
static WAITING: AtomicBool = AtomicBool::new(false);
static DROPPED: AtomicUsize = AtomicUsize::new(0);

/// Routes the core's records into the queue; a no-op when the program has a subscriber already.
pub(crate) fn install() {
    let _ = tracing::subscriber::set_global_default(Bridge);
}

/// Hands waiting records to the logger `headwater`. What one of its handlers raises leaves those behind that record waiting.
pub(crate) fn drain(py: Python<'_>) -> PyResult<()> {
    if !WAITING.swap(false, Ordering::Acquire) {
        return Ok(());
    }
    let _inside = Inside::hold(py);
    let handed_on = hand_on(py);
    if handed_on.is_err() {
        WAITING.store(true, Ordering::Release);
    }
    handed_on
}

fn hand_on(py: Python<'_>) -> PyResult<()> {
    let logger = py.import("logging")?.call_method1("getLogger", ("headwater",))?;
    // Those that come meanwhile are told by the next call.
    for _ in 0..CAPACITY {
        // Not under the lock: handlers are the user's.
        let next = queue().and_then(|queue| queue.lock().ok()?.pop_front());
        let Some((level, message)) = next else { break };
        logger.call_method1("log", (python_level(level), "%s", message))?;
    }
    match DROPPED.swap(0, Ordering::Relaxed) {
        0 => Ok(()),
        dropped => logger.call_method1("warning", ("%d log records were dropped", dropped)).map(drop),
    }
}

fn queue() -> Option<&'static Mutex<VecDeque<(Level, String)>>> {
    QUEUE.get_or_try_init(|| Ok(Mutex::default())).ok()
}

fn python_level(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        _ => 10,
    }
}

struct Bridge;

impl Subscriber for Bridge {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO && metadata.target().starts_with("headwater")
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let Some(Ok(mut records)) = queue().map(Mutex::lock) else { return };
        if records.len() < CAPACITY {
            records.push_back((*event.metadata().level(), message.0));
        } else {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        WAITING.store(true, Ordering::Release);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
