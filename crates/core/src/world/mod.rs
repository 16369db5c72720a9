//! Where this code runs: which process, and which generation of it after forks; which rank of a run ([`Ranks`]), and what it shares its
//! machine with.
//!
//! Native state (threads, locks, sockets) does not survive `fork`. Whoever owns some keeps the [`ProcessStamp`] it was
//! made in and asks [`ProcessStamp::is_current`] before touching it. A pid alone would not do: it can be reused.

mod ranks;
mod sharing;

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

pub use ranks::{Found, Ranks, Told};
pub use sharing::{cores, share_among_ranks, share_among_workers, sharers};

static FORKS: AtomicU32 = AtomicU32::new(0);
static HOOK: Once = Once::new();

/// Identity of a process: its pid and how many forks lie between it and the first process that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessStamp {
    pid: u32,
    forks: u32,
}

impl ProcessStamp {
    /// The stamp of the calling process.
    pub fn current() -> Self {
        HOOK.call_once(install_hook);
        Self { pid: std::process::id(), forks: FORKS.load(Ordering::Relaxed) }
    }

    /// Whether the calling process is the one this stamp was taken in. Costs one atomic load.
    pub fn is_current(self) -> bool {
        self.forks == FORKS.load(Ordering::Relaxed)
    }

    /// The process id.
    pub fn pid(self) -> u32 {
        self.pid
    }
}

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

#[allow(unsafe_code)]
fn install_hook() {
    // SAFETY: `count_fork` is a plain function that only increments an atomic, which is async-signal-safe.
    let status = unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
    assert_eq!(status, 0, "pthread_atfork only fails without memory");
}
