//! Threads for work that computes or blocks: decoding, local reads, assembling batches.

use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::panicked;
use crate::error::{Error, ErrorKind, Result};
use crate::world::ProcessStamp;

/// The niceness of what nobody waits for: a tenth of the time where others want all of it.
const BEHIND: i32 = 10;

/// A pool of threads; clones share it. The threads end when the last clone is dropped and no job is left.
#[derive(Clone)]
pub struct Workers(Arc<Pool>);

struct Pool {
    threads: ManuallyDrop<rayon::ThreadPool>,
    owner: ProcessStamp,
}

impl Workers {
    /// Starts so many threads.
    ///
    /// # Errors
    /// `Io` when the operating system grants none.
    pub fn start(threads: usize) -> Result<Self> {
        Self::prepared(threads, |_| ())
    }

    /// Starts so many threads that let others of the process go first: for what nobody waits for.
    ///
    /// # Errors
    /// `Io` when the operating system grants none.
    pub fn start_behind(threads: usize) -> Result<Self> {
        // Of the calling thread alone, on Linux; what may not be made later runs as it would.
        Self::prepared(threads, |_| {
            let _ = rustix::process::setpriority_process(None, BEHIND);
        })
    }

    fn prepared(threads: usize, prepare: impl Fn(usize) + Send + Sync + 'static) -> Result<Self> {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("headwater-{index}"))
            .start_handler(prepare)
            .build()
            .map_err(|cause| Error::new(ErrorKind::Io, "start", "the worker threads").caused_by(cause))?;
        Ok(Self(Arc::new(Pool { threads: ManuallyDrop::new(threads), owner: ProcessStamp::current() })))
    }

    /// How many they are.
    pub fn threads(&self) -> usize {
        self.0.threads.current_num_threads()
    }

    /// Whether these threads exist in the calling process.
    pub fn is_current(&self) -> bool {
        self.0.owner.is_current()
    }

    /// Queues a job: jobs begin in the order in which one thread queues them. A panic in it ends nothing but the job.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        self.0.threads.spawn_fifo(|| drop(catch_unwind(AssertUnwindSafe(job))));
    }

    /// Runs one job, from asynchronous code.
    ///
    /// # Errors
    /// The job's own, or `Internal` when it panicked.
    pub async fn run<T, J>(&self, job: J) -> Result<T>
    where
        T: Send + 'static,
        J: FnOnce() -> Result<T> + Send + 'static,
    {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.spawn(move || {
            if !sender.is_closed() {
                let _ = sender.send(job());
            }
        });
        receiver.await.unwrap_or_else(|_| Err(panicked("a job")))
    }
}

impl Drop for Pool {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // In a forked child the threads do not exist, and locks of the pool may be held for ever.
        if self.owner.is_current() {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.threads) };
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("threads", &self.0.threads.current_num_threads()).finish_non_exhaustive()
    }
}
