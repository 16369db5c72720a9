//! Reading samples.
//!
//! Local objects are read and decoded by one job per object — on the calling thread for a single small sample, where a
//! hand-over would cost as much as the read. Remote objects are all asked for at once, limited by their source's policies, and decoded
//! on the workers as they arrive.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::task::JoinSet;

use super::Inner;
use super::open::UNNAMED;
use crate::cache::UnitId;
use crate::engine::{Engine, Interrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::format::decode_object;
use crate::metrics::Metric;
use crate::sample::Sample;
use crate::source::{ObjectBytes, ObjectMeta, ReadRequest, Source, Version};
use crate::value::Value;

/// A single sample below this is read on the calling thread.
const SHARED_READ_BYTES: u64 = 1 << 20;

type Sources = Arc<[Arc<dyn Source>]>;

pub(super) fn read_many(inner: &Arc<Inner>, indices: &[usize], interrupt: Interrupt<'_>) -> Result<Vec<Sample>> {
    let engine = Engine::current()?;
    let sources = inner.sources(engine, interrupt)?;
    let samples = if sources.iter().all(|source| source.is_local()) {
        read_local(engine, inner, sources, indices, interrupt)
    } else {
        let read = read_remote(engine, inner.clone(), sources.into(), indices.to_vec());
        engine.block_on("reading samples", read, interrupt)?
    };
    match &samples {
        Ok(samples) => inner.metrics.record(&[(Metric::SamplesRead, samples.len() as u64)]),
        Err(_) => inner.metrics.record(&[(Metric::SampleErrors, 1)]),
    }
    samples
}

fn read_local(
    engine: &'static Engine,
    inner: &Arc<Inner>,
    sources: &[Arc<dyn Source>],
    indices: &[usize],
    interrupt: Interrupt<'_>,
) -> Result<Vec<Sample>> {
    let fields = inner.names.len();
    if let [index] = *indices
        && inner.stored_bytes(index)? < SHARED_READ_BYTES
    {
        let units = (0..fields).map(|field| UnitId { sample: index, field });
        let values = units.map(|unit| read_local_unit(engine, inner, sources, unit)).collect::<Result<_>>()?;
        return Ok(vec![inner.arrange(index, values)?]);
    }
    let (shared, sources, of): (_, Sources, _) = (inner.clone(), sources.into(), indices.to_vec());
    let job = move |number: usize| {
        let unit = UnitId { sample: of[number / fields], field: number % fields };
        read_local_unit(engine, &shared, &sources, unit)
    };
    let mut values = engine.run_all("reading samples", indices.len() * fields, job, interrupt)?.into_iter();
    indices.iter().map(|&index| inner.arrange(index, values.by_ref().take(fields).collect())).collect()
}

fn read_local_unit(engine: &'static Engine, inner: &Inner, sources: &[Arc<dyn Source>], unit: UnitId) -> Result<Value> {
    if let Some(value) = inner.cache.get(unit) {
        return Ok(value);
    }
    let (source, listed, request) = inner.request(sources, unit)?;
    let began = Instant::now();
    let read = source.read_blocking(&request, engine.buffers()).unwrap_or_else(|| {
        Err(Error::new(ErrorKind::Internal, "read", source.uri()).because("a local source did not read by itself"))
    });
    let bytes = inner.received(source.as_ref(), &listed, read, began)?;
    inner.decode(engine, source.as_ref(), unit, &listed.key, &bytes)
}

async fn read_remote(
    engine: &'static Engine,
    inner: Arc<Inner>,
    sources: Sources,
    indices: Vec<usize>,
) -> Result<Vec<Sample>> {
    // A set rather than loose tasks: dropping it cancels what is still under way.
    let mut tasks = JoinSet::new();
    for (at, index) in indices.iter().copied().enumerate() {
        let (inner, sources) = (inner.clone(), sources.clone());
        tasks.spawn(async move {
            let fields = (0..inner.names.len())
                .map(|field| read_unit(engine, inner.clone(), sources.clone(), UnitId { sample: index, field }));
            let values = try_join_all(fields).await?;
            Ok::<_, Error>((at, inner.arrange(index, values)?))
        });
    }
    let mut samples: Vec<Option<Sample>> = indices.iter().map(|_| None).collect();
    while let Some(joined) = tasks.join_next().await {
        let (at, sample) =
            joined.map_err(|cause| Error::new(ErrorKind::Internal, "read", "a sample").caused_by(cause)).flatten()?;
        samples[at] = Some(sample);
    }
    Ok(samples.into_iter().flatten().collect())
}

async fn read_unit(engine: &'static Engine, inner: Arc<Inner>, sources: Sources, unit: UnitId) -> Result<Value> {
    if let Some(value) = inner.cache.get(unit) {
        return Ok(value);
    }
    let (source, listed, request) = inner.request(&sources, unit)?;
    let source = source.clone();
    let began = Instant::now();
    let read = source.read(&request, engine.buffers()).await;
    let bytes = inner.received(source.as_ref(), &listed, read, began)?;
    engine.run_one(move || inner.decode(engine, source.as_ref(), unit, &listed.key, &bytes)).await
}

impl Inner {
    fn stored_bytes(&self, index: usize) -> Result<u64> {
        (0..self.names.len()).map(|field| self.manifest.object_size(index, field)).sum()
    }

    fn request<'a>(
        &self,
        sources: &'a [Arc<dyn Source>],
        unit: UnitId,
    ) -> Result<(&'a Arc<dyn Source>, ObjectMeta, ReadRequest)> {
        let listed = self.manifest.object(unit.sample, unit.field)?;
        let version = if self.accepts_changes() { Version::Unknown } else { listed.version.clone() };
        let request = ReadRequest { key: listed.key.clone(), range: None, version };
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

    fn decode(&self, engine: &Engine, source: &dyn Source, unit: UnitId, key: &str, bytes: &Bytes) -> Result<Value> {
        let began = Instant::now();
        let uri = source.uri_of(key);
        let value = decode_object(&uri, bytes, &self.limits, engine.buffers()).and_then(|mut values| {
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
            self.cache.offer(unit, value);
        }
        value
    }

    /// Puts a sample together; the value of a single unnamed field becomes the sample when it is a dict of names.
    fn arrange(&self, index: usize, values: Vec<Value>) -> Result<Sample> {
        let key = self.manifest.key(index)?.to_owned();
        let mut fields: Vec<_> = self.names.iter().cloned().zip(values).collect();
        if self.is_spread && fields.len() == 1 {
            fields = fields.into_iter().flat_map(|(_, value)| spread(value)).collect();
        }
        Ok(Sample { index, key, fields })
    }
}

fn spread(value: Value) -> Vec<(Arc<str>, Value)> {
    match value {
        Value::Dict(dict) if dict.items.iter().all(|(name, _)| matches!(name, Value::Str(_))) => {
            let named = |(name, value)| if let Value::Str(name) = name { Some((name.into(), value)) } else { None };
            dict.items.into_iter().filter_map(named).collect()
        }
        other => vec![(UNNAMED.into(), other)],
    }
}
