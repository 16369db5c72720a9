//! The one engine of a process: runtime, worker pool, buffers.
//!
//! Everything that owns threads or sockets hangs off the [`Engine`], which is made on first use and lives until the process
//! ends. A forked child finds the parent's engine useless (its threads do not exist there), leaves it where it is and
//! makes its own; see [`PerProcess`].
//!
//! Callers are ordinary threads: they hand the engine work and wait for it. A wait asks the caller's [`Interrupt`] every
//! few milliseconds whether to go on, and leaving a wait cancels the work.

mod questions;
mod workers;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::world;

pub use crate::per_process::PerProcess;
pub use questions::Questions;
pub use workers::Workers;

/// Asked at least every 50 ms while a caller waits; an error ends the wait and is returned from it.
pub type Interrupt<'a> = &'a (dyn Fn() -> Result<()> + Sync);

/// Never interrupts.
pub fn uninterrupted() -> Interrupt<'static> {
    &|| Ok(())
}

/// How often a wait looks whether it was interrupted: unnoticeable to a person, cheap for a processor.
pub(crate) const INTERRUPT_POLL: Duration = Duration::from_millis(50);
/// Idle buffers kept for reuse: a few batches of the objects this project is about (a few MB each).
const KEEP_BUFFER_BYTES: usize = 512 << 20;
/// Threads that serve sockets. They only copy into buffers, so two saturate more than a 25 Gb/s link.
const IO_THREADS: usize = 2;
/// A read from a local disk occupies its thread, so on small machines there are more threads than cores: so many for all that share
/// the machine,
const MIN_WORKERS: usize = 4;
/// and so many for each of them, since one may be busy with what the consumer does not wait for.
const MIN_WORKERS_OF_ONE: usize = 2;
/// Threads that copy finished batches. So many come near what the memory of a large machine moves.
const COPIERS: usize = 8;

/// Runtime, worker pool and buffers of this process.
#[derive(Debug)]
pub struct Engine {
    runtime: tokio::runtime::Runtime,
    workers: PerProcess<Workers>,
    copiers: PerProcess<Workers>,
    packers: PerProcess<Workers>,
    buffers: BufferPool,
}

static CURRENT: PerProcess<Engine> = PerProcess::new();

impl Engine {
    /// The engine of this process, made on the first call.
    ///
    /// # Errors
    /// `Io` when the operating system grants no threads.
    pub fn current() -> Result<&'static Self> {
        CURRENT.get_or_try_init(Self::start)
    }

    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(IO_THREADS.min(world::cores()))
            .thread_name("headwater-io")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|cause| Error::io("start", "the I/O threads", cause))?;
        let (workers, copiers, packers) = (PerProcess::new(), PerProcess::new(), PerProcess::new());
        Ok(Self { runtime, workers, copiers, packers, buffers: BufferPool::new(KEEP_BUFFER_BYTES) })
    }

    /// The buffers that objects are read into.
    pub fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    /// The threads that decode and assemble, started on the first call: a worker of torch's `DataLoader` learns only after it has its
    /// dataset how many there are.
    ///
    /// # Errors
    /// `Io` when the operating system grants no threads.
    pub fn workers(&self) -> Result<&Workers> {
        self.workers.get_or_try_init(|| Workers::start(workers_for(world::cores(), world::sharers())))
    }

    /// Threads that copy finished batches, started on the first call. Apart from the workers, since a batch that the consumer waits for must
    /// not queue behind those that come after it.
    ///
    /// # Errors
    /// `Io` when the operating system grants no threads.
    pub fn copiers(&self) -> Result<&Workers> {
        self.copiers.get_or_try_init(|| Workers::start(COPIERS.min(world::cores())))
    }

    /// Threads that pack what was read, started on the first call. Apart from the workers, since what somebody waits for must not queue
    /// behind the packing of what came before it, and behind them where there are too few cores for both.
    ///
    /// # Errors
    /// `Io` when the operating system grants no threads.
    pub fn packers(&self) -> Result<&Workers> {
        self.packers.get_or_try_init(|| Workers::start_behind((world::cores() / 2).max(1)))
    }

    /// Runs a future on the I/O threads; what is returned cancels it.
    pub fn spawn<F>(&self, future: F) -> impl FnOnce() + Send + 'static + use<F>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = self.runtime.spawn(future).abort_handle();
        move || task.abort()
    }

    /// Runs a future on the I/O threads and waits for it. May be called from any thread, also one of another runtime.
    ///
    /// # Errors
    /// What `interrupt` returned (the future is then cancelled), or `Internal` when the future panicked.
    pub fn block_on<F>(&self, what: &str, future: F, interrupt: Interrupt<'_>) -> Result<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (sender, receiver) = sync_channel(1);
        let task = self.runtime.spawn(async move {
            let _ = sender.send(future.await);
        });
        let outcome = wait(&receiver, what, interrupt);
        task.abort();
        outcome
    }

    /// Runs `job(0)` to `job(count - 1)` on the workers and returns the results in order.
    ///
    /// # Errors
    /// The first error in order of arrival, or what `interrupt` returned; jobs not yet begun are then left out. `Io` when the operating
    /// system grants no threads.
    pub fn run_all<T, J>(&self, what: &str, count: usize, job: J, interrupt: Interrupt<'_>) -> Result<Vec<T>>
    where
        T: Send + 'static,
        J: Fn(usize) -> Result<T> + Send + Sync + 'static,
    {
        let workers = self.workers()?;
        let (sender, receiver) = sync_channel(count);
        let job = std::sync::Arc::new(job);
        // Workers hold this weakly: once the caller has left, jobs that have not begun find nothing to do.
        let alive = std::sync::Arc::new(());
        for index in 0..count {
            let (sender, job, alive) = (sender.clone(), job.clone(), std::sync::Arc::downgrade(&alive));
            workers.spawn(move || {
                if alive.strong_count() > 0 {
                    let result =
                        catch_unwind(AssertUnwindSafe(|| job(index))).unwrap_or_else(|_| Err(panicked("a job")));
                    let _ = sender.send((index, result));
                }
            });
        }
        drop(sender);
        let mut results: Vec<Option<T>> = (0..count).map(|_| None).collect();
        for _ in 0..count {
            let (index, result) = wait(&receiver, what, interrupt)?;
            results[index] = Some(result?);
        }
        Ok(results.into_iter().flatten().collect())
    }
}

/// Threads that decode and assemble of a process that has so many cores, and shares the machine with so many.
fn workers_for(cores: usize, sharers: usize) -> usize {
    cores.max(MIN_WORKERS.div_ceil(sharers)).max(MIN_WORKERS_OF_ONE)
}

/// Waits for a future on the calling thread, which may be of any runtime or none. For futures that others complete soon.
pub fn wait_here<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park_timeout(INTERRUPT_POLL),
        }
    }
}

fn wait<T>(receiver: &Receiver<T>, what: &str, interrupt: Interrupt<'_>) -> Result<T> {
    loop {
        match receiver.recv_timeout(INTERRUPT_POLL) {
            Ok(value) => return Ok(value),
            Err(RecvTimeoutError::Timeout) => interrupt()?,
            Err(RecvTimeoutError::Disconnected) => return Err(panicked(what)),
        }
    }
}

fn panicked(what: &str) -> Error {
    Error::new(ErrorKind::Internal, "finish", what).because("it panicked; please report this")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn those_who_share_a_machine_have_fewer_threads_each() {
        assert_eq!(
            [(16, 1), (8, 2), (2, 1), (1, 2), (1, 4), (1, 64)].map(|(cores, sharers)| workers_for(cores, sharers)),
            [16, 8, 4, 2, 2, 2]
        );
    }

    #[test]
    fn returns_results_in_order() {
        let engine = Engine::current().expect("engine");
        let squares = engine.run_all("squares", 100, |n| Ok(n * n), uninterrupted()).expect("squares");
        assert_eq!(squares, (0..100).map(|n| n * n).collect::<Vec<_>>());
    }

    #[test]
    fn an_interrupt_ends_the_wait_and_cancels_the_work() {
        let engine = Engine::current().expect("engine");
        let stop = || Err(Error::new(ErrorKind::Interrupted, "wait for", "a test"));
        let error = engine.block_on("for ever", std::future::pending::<()>(), &stop).expect_err("interrupted");
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    }

    #[test]
    fn a_panic_is_an_error_and_harms_no_later_work() {
        let engine = Engine::current().expect("engine");
        let error = engine.run_all::<(), _>("jobs", 3, |_| panic!("on purpose"), uninterrupted()).expect_err("panic");
        assert_eq!(error.kind(), ErrorKind::Internal);
        let error = engine.block_on::<_>("it", async { assert!(false_at_run_time(), "on purpose") }, uninterrupted());
        assert_eq!(error.expect_err("panic").kind(), ErrorKind::Internal);
        assert_eq!(engine.block_on("it", async { 7 }, uninterrupted()).expect("alive"), 7);
    }

    fn false_at_run_time() -> bool {
        std::hint::black_box(false)
    }

    #[test]
    fn the_first_error_is_returned_and_the_rest_left_out() {
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        let engine = Engine::current().expect("engine");
        let job = |index| {
            BEGUN.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
            if index == 0 { Err(Error::new(ErrorKind::Corrupt, "read", "the first")) } else { Ok(()) }
        };
        let error = engine.run_all("jobs", 10_000, job, uninterrupted()).expect_err("first");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(BEGUN.load(Ordering::Relaxed) < 10_000);
    }
}
