//! Copies of finished batches, by native threads, while the interpreter goes on.

#![allow(unsafe_code)]

use std::ptr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use headwater::engine::{Engine, Interrupt, Workers};
use headwater::world::ProcessStamp;
use pyo3::prelude::*;

use crate::error::checked;
use crate::interrupt::detached;

/// What one job copies.
const JOB_BYTES: usize = 1 << 20;
/// Less than this is copied faster than another thread is woken.
const MIN_JOB_BYTES: usize = 64 << 10;
/// How often a wait looks for signals.
const SIGNAL_POLL: Duration = Duration::from_millis(50);

/// Memory that is being copied to other memory. `owners` keeps both alive, and nobody else may touch them before `wait` returns.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Copies {
    under_way: Arc<UnderWay>,
    owner: ProcessStamp,
    _owners: Py<PyAny>,
}

#[derive(Default)]
struct UnderWay {
    jobs: Mutex<usize>,
    changed: Condvar,
}

/// From, to, bytes.
struct Piece(*const u8, *mut u8, usize);

// SAFETY: whoever makes `Copies` vouches for the memory, whose owners `Copies` does not let go before all pieces are copied.
unsafe impl Send for Piece {}

#[pymethods]
impl Copies {
    /// Begins to copy pieces: address to read from, address to write to, bytes.
    #[new]
    fn new(py: Python<'_>, pieces: Vec<(usize, usize, usize)>, owners: Py<PyAny>) -> PyResult<Self> {
        let copiers = checked(py, Engine::current().and_then(Engine::copiers))?;
        let under_way = Arc::new(UnderWay::default());
        begin(copiers, &under_way, &pieces);
        Ok(Self { under_way, owner: ProcessStamp::current(), _owners: owners })
    }

    /// Whether everything is copied.
    #[getter]
    fn is_done(&self) -> bool {
        *self.under_way.jobs.lock().unwrap_or_else(PoisonError::into_inner) == 0
    }

    /// Waits until everything is copied.
    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, |interrupt| self.under_way.wait(interrupt))
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // In a forked child nobody copies.
        if self.owner.is_current() {
            let _ = self.under_way.wait(&|| Ok(()));
        }
    }
}

impl UnderWay {
    fn wait(&self, interrupt: Interrupt<'_>) -> headwater::Result<()> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        while *jobs > 0 {
            jobs = self.changed.wait_timeout(jobs, SIGNAL_POLL).unwrap_or_else(PoisonError::into_inner).0;
            if *jobs > 0 {
                drop(jobs);
                interrupt()?;
                jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            }
        }
        Ok(())
    }
}

/// Cuts pieces up into jobs of about one size. What is too little for one is copied here.
fn begin(copiers: &Workers, under_way: &Arc<UnderWay>, pieces: &[(usize, usize, usize)]) {
    let mut job = Vec::new();
    let mut job_bytes = 0;
    for &(from, to, bytes) in pieces {
        let mut done = 0;
        while done < bytes {
            let part = (bytes - done).min(JOB_BYTES - job_bytes);
            job.push(Piece(
                ptr::with_exposed_provenance(from + done),
                ptr::with_exposed_provenance_mut(to + done),
                part,
            ));
            (done, job_bytes) = (done + part, job_bytes + part);
            if job_bytes == JOB_BYTES {
                spawn(copiers, under_way, std::mem::take(&mut job));
                job_bytes = 0;
            }
        }
    }
    match job_bytes {
        ..MIN_JOB_BYTES => copy(job),
        _ => spawn(copiers, under_way, job),
    }
}

fn spawn(copiers: &Workers, under_way: &Arc<UnderWay>, job: Vec<Piece>) {
    *under_way.jobs.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    let under_way = under_way.clone();
    copiers.spawn(move || {
        copy(job);
        *under_way.jobs.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        under_way.changed.notify_all();
    });
}

fn copy(job: Vec<Piece>) {
    for Piece(from, to, bytes) in job {
        // SAFETY: `Copies` is made with two live, separate stretches of so many bytes and keeps them.
        unsafe { ptr::copy_nonoverlapping(from, to, bytes) };
    }
}
