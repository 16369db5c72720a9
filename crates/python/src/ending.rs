//! Leaving the interpreter and coming back to it, up to its end.
//!
//! When the interpreter is taken down, it ends every other thread that asks for it, wherever that thread is: in the midst of our frames
//! this would abort the process. So whoever lets go of the interpreter comes back through here, and once Python's exit handlers run,
//! nobody does any more but the thread that runs them: the others stay for good, as daemon threads do anyway. Whoever is on the way back
//! at that moment, or calls Python from here, is waited for.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use headwater::engine::PerProcess;
use pyo3::prelude::*;

/// How long the end of the process waits for those inside. What a handler of log records is at may take any time.
const PATIENCE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Process {
    is_ending: AtomicBool,
    inside: AtomicUsize,
}

/// A forked child has none of the threads that were inside.
static PROCESS: PerProcess<Process> = PerProcess::new();

thread_local! {
    /// Whether this is the thread that ends the process.
    static ENDS: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call` without the GIL.
pub(crate) fn detach<T: Send>(py: Python<'_>, call: impl FnOnce() -> T + Send) -> T {
    let (made, _inside) = py.detach(|| {
        let made = call();
        (made, Inside::enter())
    });
    made
}

/// Runs `call` with the GIL, in the midst of a call without.
pub(crate) fn attach<T>(call: impl FnOnce(Python<'_>) -> T) -> T {
    let _inside = Inside::enter();
    Python::try_attach(call).unwrap_or_else(|| stay())
}

/// While it lives, the interpreter is not taken down.
pub(crate) struct Inside(Option<&'static Process>);

impl Inside {
    /// For frames that call Python, which may let go of the GIL at any step.
    pub(crate) fn hold(py: Python<'_>) -> Self {
        let inside = Self::count();
        inside.unwrap_or_else(|| py.detach(|| stay()))
    }

    fn enter() -> Self {
        Self::count().unwrap_or_else(|| stay())
    }

    /// Nothing where only the thread that ends the process may go on.
    fn count() -> Option<Self> {
        let process = PROCESS.get_or_try_init(|| Ok(Process::default())).ok();
        let inside = Self(process);
        // Counted before it is asked: either this sees the end, or the end sees this.
        process.map(|process| process.inside.fetch_add(1, Ordering::SeqCst));
        let is_ending = process.is_some_and(|process| process.is_ending.load(Ordering::SeqCst));
        (!is_ending || ENDS.get()).then_some(inside)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.map(|process| process.inside.fetch_sub(1, Ordering::SeqCst));
    }
}

/// Python's exit handlers are running: from now on nobody comes back from here but the caller.
#[pyfunction]
pub(crate) fn end(py: Python<'_>) {
    let Ok(process) = PROCESS.get_or_try_init(|| Ok(Process::default())) else { return };
    ENDS.set(true);
    process.is_ending.store(true, Ordering::SeqCst);
    py.detach(|| {
        let ends = Instant::now() + PATIENCE;
        while process.inside.load(Ordering::SeqCst) > 0 && Instant::now() < ends {
            std::thread::sleep(POLL);
        }
    });
}

fn stay() -> ! {
    loop {
        std::thread::park();
    }
}
