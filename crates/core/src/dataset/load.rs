//! Loading one unit: read its object, check that it is the listed one, decode it.
//!
//! A unit is loaded once at a time, whoever asks: see [`Flights`](crate::cache::Flights). What several asked for is shared by
//! them, and [`Loaded`] says so: memory that others see must be copied before a user may write to it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::{Inner, Kept};
use crate::buffer::BufferPool;
use crate::cache::{Flight, UnitId};
use crate::engine::{Engine, Workers, wait_here};
use crate::error::{Error, ErrorKind, Result};
use crate::format::decode_object;
use crate::metrics::{Metric, Timing};
use crate::source::{ObjectBytes, ObjectMeta, ReadRequest, Source, Version};
use crate::value::{Packed, Value};

/// A value that was just read.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) value: Value,
    /// Whether others hold the same memory.
    pub(crate) is_shared: bool,
}

impl Loaded {
    /// The value in memory that nobody else sees.
    pub(crate) fn into_own(self, buffers: &BufferPool) -> Result<Value> {
        if self.is_shared { Ok(Packed::new(&self.value, buffers)?.into_value()) } else { Ok(self.value) }
    }
}

/// The sources of a dataset, one per field, or one for all.
pub(crate) type Sources = Arc<[Arc<dyn Source>]>;

impl Inner {
    /// Loads a unit of local sources on the calling thread.
    pub(crate) fn load_now(
        &self,
        kept: &Kept,
        sources: &[Arc<dyn Source>],
        unit: UnitId,
        buffers: &BufferPool,
    ) -> Result<Loaded> {
        loop {
            match kept.flights.join(unit) {
                Flight::Lead(leader) => {
                    let value = self.read_now(sources, unit, buffers);
                    let is_shared = leader.land(&value);
                    return value.map(|value| Loaded { value, is_shared });
                }
                Flight::Follow(receiver) => {
                    if let Ok(value) = wait_here(receiver) {
                        return value.map(|value| Loaded { value, is_shared: true });
                    }
                }
            }
        }
    }

    /// Loads a unit from anywhere; `fetched` is called when its bytes are here and decoding begins.
    pub(crate) async fn load(
        self: &Arc<Self>,
        kept: &Kept,
        sources: &Sources,
        unit: UnitId,
        workers: &Workers,
        fetched: impl FnOnce() + Send,
    ) -> Result<Loaded> {
        let mut fetched = Some(fetched);
        let mut fetched = move || {
            if let Some(fetched) = fetched.take() {
                fetched();
            }
        };
        loop {
            match kept.flights.join(unit) {
                Flight::Lead(leader) => {
                    let value = self.read(sources, unit, workers, &mut fetched).await;
                    let is_shared = leader.land(&value);
                    return value.map(|value| Loaded { value, is_shared });
                }
                Flight::Follow(receiver) => {
                    if let Ok(value) = receiver.await {
                        fetched();
                        return value.map(|value| Loaded { value, is_shared: true });
                    }
                }
            }
        }
    }

    fn read_now(&self, sources: &[Arc<dyn Source>], unit: UnitId, buffers: &BufferPool) -> Result<Value> {
        let (source, listed, request) = self.request(sources, unit)?;
        let began = Instant::now();
        let read = source.read_blocking(&request, buffers).unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Internal, "read", source.uri()).because("a local source did not read by itself"))
        });
        let bytes = self.received(source.as_ref(), &listed, read, began)?;
        self.decode(source.as_ref(), &listed.key, &bytes, buffers, began)
    }

    async fn read(
        self: &Arc<Self>,
        sources: &Sources,
        unit: UnitId,
        workers: &Workers,
        fetched: &mut (impl FnMut() + Send),
    ) -> Result<Value> {
        let buffers = Engine::current()?.buffers();
        let (source, listed, request) = self.request(sources, unit)?;
        let source = source.clone();
        let began = Instant::now();
        let read = source.read(&request, buffers).await;
        let bytes = self.received(source.as_ref(), &listed, read, began)?;
        fetched();
        let inner = self.clone();
        workers.run(move || inner.decode(source.as_ref(), &listed.key, &bytes, buffers, began)).await
    }

    fn request<'a>(
        &self,
        sources: &'a [Arc<dyn Source>],
        unit: UnitId,
    ) -> Result<(&'a Arc<dyn Source>, ObjectMeta, ReadRequest)> {
        let listed = self.manifest.object(unit.sample, unit.field)?;
        let version = if self.accepts_changes() { Version::Unknown } else { listed.version.clone() };
        let size = if self.accepts_changes() { None } else { Some(listed.size) };
        let request = ReadRequest { key: listed.key.clone(), range: None, version, size };
        Ok((Self::source_of(sources, unit.field), listed, request))
    }

    /// Counts a read and checks that it is the object that was listed.
    fn received(
        &self,
        source: &dyn Source,
        listed: &ObjectMeta,
        read: Result<ObjectBytes>,
        began: Instant,
    ) -> Result<Bytes> {
        let nanoseconds = began.elapsed().as_nanos() as u64;
        self.metrics.record(&[
            (Metric::SourceRequests, 1),
            (Metric::SourceSeconds, nanoseconds),
            (Metric::SourceErrors, u64::from(read.is_err())),
            (Metric::SourceBytes, read.as_ref().map_or(0, |object| object.bytes.len() as u64)),
        ]);
        let hint = "on_changed = \"reload\" reads it as it is now";
        let changed = |error: Error| if error.kind() == ErrorKind::Changed { error.because(hint) } else { error };
        let object = read.map_err(changed)?;
        if object.meta.size != listed.size && !self.accepts_changes() {
            let reason = format!("it was replaced: {} bytes instead of the listed {}", object.meta.size, listed.size);
            return Err(changed(Error::new(ErrorKind::Changed, "read", source.uri_of(&listed.key)).because(reason)));
        }
        Ok(object.bytes)
    }

    fn decode(
        &self,
        source: &dyn Source,
        key: &str,
        bytes: &Bytes,
        buffers: &BufferPool,
        requested: Instant,
    ) -> Result<Value> {
        let began = Instant::now();
        let uri = source.uri_of(key);
        let value = decode_object(&uri, bytes, &self.limits, buffers).and_then(|mut values| {
            let (_, value) = values
                .pop()
                .ok_or_else(|| Error::new(ErrorKind::Corrupt, "decode", &uri).because("it holds no value"))?;
            Ok(value)
        });
        self.metrics.record(&[
            (Metric::DecodeSeconds, began.elapsed().as_nanos() as u64),
            (Metric::DecodeErrors, u64::from(value.is_err())),
            (Metric::DecodeBytes, value.as_ref().map_or(0, |value| value.tensor_bytes() as u64)),
        ]);
        if let Ok(value) = &value {
            self.expansion.saw(key, bytes.len(), value.tensor_bytes());
        }
        self.metrics.time(Timing::Miss, requested.elapsed().as_nanos() as u64, 1);
        value
    }
}
