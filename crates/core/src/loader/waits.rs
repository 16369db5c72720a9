//! What a pass waits for at a moment: which objects, in which stage, and since when.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::prepare::{Prepare, UnderWay};

/// Where a unit is on its way into a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Its source was asked, or will be as soon as its limits allow.
    Source,
    /// It was read, and is being unpacked and decoded.
    Decode,
    /// Samples of its step could not be read, and `on_error` decides what becomes of it.
    #[serde(rename = "on_error")]
    OnError,
    /// Everything of its step is there, and being put together.
    Collate,
    /// Its sample waits for the dataset's transform, or is with it.
    Transform,
    /// The samples of its step are with `collate_fn`.
    #[serde(rename = "collate_fn")]
    CollateFn,
}

/// Something that a batch waits for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Wait {
    /// How many batches come before that one.
    pub ahead: usize,
    /// What is being done.
    pub stage: Stage,
    /// The object that it is done to, or the key of the sample that the transform has; nothing in particular while a batch is put
    /// together, or while no thread has begun it.
    pub object: Option<String>,
    /// For how long that has taken, in seconds.
    pub seconds: f64,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, seconds, .. } = self;
        match (stage, self.object.as_deref().unwrap_or_default()) {
            (Stage::Transform, "") => write!(f, "no thread of the transform's had time for it for {seconds:.1} s"),
            (Stage::Transform, key) => write!(f, "the transform has had sample `{key}` for {seconds:.1} s"),
            (Stage::CollateFn, _) => write!(f, "collate_fn has had it for {seconds:.1} s"),
            (Stage::Source, object) => write!(f, "waiting for `{object}` for {seconds:.1} s"),
            (Stage::Decode, object) => write!(f, "decoding `{object}` for {seconds:.1} s"),
            (Stage::OnError, object) => write!(f, "on_error deciding about `{object}` for {seconds:.1} s"),
            (Stage::Collate, _) => write!(f, "it has been put together for {seconds:.1} s"),
        }
    }
}

/// When the units of a step came.
#[derive(Debug)]
pub(super) struct Arrivals {
    began: Instant,
    /// Nanoseconds after that, when the bytes of each unit were there; 0 is not yet.
    fetched: Vec<AtomicU64>,
    /// When everything was.
    complete: AtomicU64,
}

impl Arrivals {
    pub(super) fn new(units: usize) -> Self {
        let fetched = (0..units).map(|_| AtomicU64::new(0)).collect();
        Self { began: Instant::now(), fetched, complete: AtomicU64::new(0) }
    }

    pub(super) fn mark_fetched(&self, at: usize) {
        self.fetched[at].store(self.now(), Ordering::Relaxed);
    }

    pub(super) fn mark_complete(&self) {
        self.complete.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        (self.began.elapsed().as_nanos() as u64).max(1)
    }

    fn stage_of(&self, at: usize, now: Instant) -> (Stage, f64) {
        let fetched = self.fetched[at].load(Ordering::Relaxed);
        let stage = if fetched == 0 { Stage::Source } else { Stage::Decode };
        (stage, self.since(fetched, now))
    }

    fn since(&self, nanoseconds: u64, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.began);
        elapsed.saturating_sub(Duration::from_nanos(nanoseconds)).as_secs_f64()
    }
}

impl Prepare {
    /// What the steps under way wait for, the next one first.
    pub(super) fn waits(&self) -> Vec<Wait> {
        if !self.owner.is_current() {
            return Vec::new();
        }
        let steps: Vec<_> = {
            let under_way = self.under_way.lock();
            under_way.iter().filter_map(std::sync::Weak::upgrade).filter(|step| step.is_under_way()).collect()
        };
        let now = Instant::now();
        let mut waits: Vec<_> = steps.iter().flat_map(|step| step.waits(step.place.ahead(), now)).collect();
        waits.extend(self.transforms.iter().flat_map(|transforms| transforms.waits()));
        waits.sort_by_key(|wait| wait.ahead);
        waits
    }

    /// The same of the next step alone, in a few words.
    pub(super) fn say_waits(&self) -> String {
        let waits: Vec<_> = self.waits().into_iter().filter(|wait| wait.ahead == 0).collect();
        // The first of those that took longest.
        let Some(longest) = waits.iter().rev().max_by(|a, b| a.seconds.total_cmp(&b.seconds)) else {
            return "nothing of it has begun: the workers have other things to do".to_owned();
        };
        match waits.len() - 1 {
            0 => longest.to_string(),
            others => format!("{longest} and for {others} other objects"),
        }
    }
}

impl UnderWay {
    fn waits(&self, ahead: usize, now: Instant) -> Vec<Wait> {
        let missing: Vec<usize> = {
            let parts = self.parts.lock();
            (0..parts.len()).filter(|&at| parts[at].is_none()).collect()
        };
        let complete = self.arrivals.complete.load(Ordering::Relaxed);
        if self.mended.load(Ordering::Relaxed) {
            let (object, seconds) = (self.first_failed.get().cloned(), self.arrivals.since(complete, now));
            return vec![Wait { ahead, stage: Stage::OnError, object, seconds }];
        }
        if missing.is_empty() || complete != 0 {
            let seconds = self.arrivals.since(complete, now);
            return vec![Wait { ahead, stage: Stage::Collate, object: None, seconds }];
        }
        let of_unit = |at: usize| {
            let (stage, seconds) = self.arrivals.stage_of(at, now);
            Wait { ahead, stage, object: Some(self.uri_of(at)), seconds }
        };
        missing.into_iter().map(of_unit).collect()
    }

    pub(super) fn uri_of(&self, at: usize) -> String {
        let (prepare, unit) = (&self.prepare, self.units[at]);
        let source = &prepare.sources[unit.field.min(prepare.sources.len() - 1)];
        let object = prepare.dataset.manifest.object(unit.sample, unit.field);
        object.map_or_else(|error| error.to_string(), |object| source.uri_of(&object.key))
    }
}
