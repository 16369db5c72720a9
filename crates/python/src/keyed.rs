//! Caches of values by key.

use std::time::Duration;

use headwater::clock::Clock;
use headwater::config::CacheConfig;
use headwater::keyed::{self, Keyed, KeyedStats, Lease, PutOptions};
use headwater::value::Value;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::ending::detach;
use crate::error::checked;
use crate::framework::Framework;
use crate::from_python::{Verb, to_value};
use crate::interrupt::detached;
use crate::to_python::to_python;

/// A cache of values by key.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct KeyedCache {
    inner: Keyed,
    framework: Py<Framework>,
}

/// A value that somebody wants kept, over the memory of Python's objects.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Candidate {
    value: Value,
    /// Bytes of its tensors.
    #[pyo3(get)]
    tensor_bytes: usize,
    /// Memory that it takes at most when it is kept.
    #[pyo3(get)]
    memory: usize,
}

/// A value that was found.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct FoundValue {
    lease: Lease,
    framework: Py<Framework>,
}

/// A clock that stands still until it is put forward, for tests.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct ManualClock(Clock);

#[pymethods]
impl KeyedCache {
    /// An empty cache, of a `CacheConfig` as JSON.
    #[new]
    fn new(py: Python<'_>, config: &str, framework: Py<Framework>, clock: Option<&ManualClock>) -> PyResult<Self> {
        let config = checked(py, CacheConfig::from_json(config))?;
        let clock = clock.map_or_else(Clock::default, |clock| clock.0.clone());
        let inner = detached(py, |_| Keyed::new(config, clock))?;
        Ok(Self { inner, framework })
    }

    /// Looks for a value.
    fn get(&self, py: Python<'_>, key: &str, was_prefetched: bool) -> PyResult<Option<FoundValue>> {
        self.found(py, detach(py, || self.inner.get(key, was_prefetched)))
    }

    /// A value for whoever waited for it.
    fn get_awaited(&self, py: Python<'_>, key: &str) -> PyResult<Option<FoundValue>> {
        self.found(py, detach(py, || self.inner.get_awaited(key)))
    }

    /// Puts a copy of a value in; whether it was let in.
    fn put(
        &self,
        py: Python<'_>,
        key: &str,
        candidate: &Candidate,
        compress: bool,
        is_prefetched: bool,
    ) -> PyResult<bool> {
        let options = PutOptions { compress, is_prefetched };
        detached(py, |interrupt| self.inner.put(key, &candidate.value, options, interrupt))
    }

    /// Whether there is a value. Counts as no use.
    fn contains(&self, py: Python<'_>, key: &str) -> PyResult<bool> {
        checked(py, detach(py, || self.inner.contains(key)))
    }

    /// Removes a value; whether there was one.
    fn remove(&self, py: Python<'_>, key: &str) -> PyResult<bool> {
        checked(py, detach(py, || self.inner.remove(key)))
    }

    /// Removes all values.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        checked(py, detach(py, || self.inner.clear()))
    }

    /// Bytes that it may hold.
    #[getter]
    fn capacity(&self, py: Python<'_>) -> PyResult<u64> {
        checked(py, self.inner.capacity())
    }

    /// What it holds and what happened, by name; with `is_settled` once what is being packed is.
    fn stats<'py>(&self, py: Python<'py>, is_settled: bool) -> PyResult<Bound<'py, PyDict>> {
        let stats = detached(py, |interrupt| {
            if is_settled {
                self.inner.settle(interrupt)?;
            }
            self.inner.stats()
        })?;
        let held = [("entries", stats.entries), ("bytes", stats.bytes), ("capacity", stats.capacity)];
        let more = [("expired", stats.expired), ("saved_bytes", stats.saved_bytes)];
        named(py, held.into_iter().chain(counts(&stats)).chain(more))
    }

    /// What happened, by name, without a look at what it holds.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        named(py, counts(&checked(py, self.inner.counters())?))
    }

    /// Begins to count anew.
    fn reset_counters(&self, py: Python<'_>) -> PyResult<()> {
        checked(py, self.inner.reset_counters())
    }
}

fn counts(stats: &KeyedStats) -> [(&'static str, u64); 5] {
    [
        ("hits", stats.hits),
        ("misses", stats.misses),
        ("evictions", stats.evictions),
        ("declined", stats.declined),
        ("prefetch_hits", stats.prefetch_hits),
    ]
}

fn named(py: Python<'_>, numbers: impl IntoIterator<Item = (&'static str, u64)>) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for (name, number) in numbers {
        dict.set_item(name, number)?;
    }
    Ok(dict)
}

impl KeyedCache {
    fn found(&self, py: Python<'_>, lease: headwater::Result<Option<Lease>>) -> PyResult<Option<FoundValue>> {
        Ok(checked(py, lease)?.map(|lease| FoundValue { lease, framework: self.framework.clone_ref(py) }))
    }
}

#[pymethods]
impl Candidate {
    /// Converts an object, without copying tensors: nobody may write to them before it is put in.
    #[new]
    fn new(value: &Bound<'_, PyAny>, describe: &Bound<'_, PyAny>) -> PyResult<Self> {
        let value = to_value(value, describe, Verb::Keep)?;
        Ok(Self { tensor_bytes: value.tensor_bytes(), memory: keyed::memory_for(&value), value })
    }
}

#[pymethods]
impl FoundValue {
    /// Bytes of its tensors.
    #[getter]
    fn tensor_bytes(&self) -> usize {
        self.lease.tensor_bytes()
    }

    /// The value, in memory of its own.
    fn value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let value = detached(py, |_| self.lease.to_own())?;
        to_python(py, &value, self.framework.get())
    }
}

#[pymethods]
impl ManualClock {
    #[new]
    fn new() -> Self {
        Self(Clock::manual())
    }

    /// Puts it forward.
    fn advance(&self, seconds: f64) -> PyResult<()> {
        let by = Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(error.to_string()))?;
        self.0.advance(by);
        Ok(())
    }
}
