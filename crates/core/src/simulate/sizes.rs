//! What the objects of a dataset measure.

use std::borrow::Cow;

use crate::error::{Error, ErrorKind, Result};
use crate::manifest::Manifest;
use crate::order::Permutation;

/// So many objects are kept of a dataset at most: shares of their uses vary by 0.2 % from one epoch to the next.
const OBJECTS_AT_MOST: usize = 50_000;

/// More objects than a sample has anywhere.
const OBJECTS_PER_SAMPLE_AT_MOST: usize = 1000;

/// Sizes of a dataset's objects, of all samples or, of many, of some that stand for all: drawn evenly, the same each time.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    samples: u64,
    objects_per_sample: usize,
    stored_bytes: u64,
    /// Those that are walked, sample by sample.
    objects: Vec<u64>,
}

impl Sizes {
    /// Those of a manifest's objects.
    ///
    /// # Errors
    /// `Invalid` when there is nothing to read.
    pub fn of(manifest: &Manifest) -> Result<Self> {
        let fields = manifest.field_names().len();
        let size = |sample, field| manifest.object_size(sample as usize, field);
        Self::new(manifest.len() as u64, fields, manifest.stored_bytes(), size)
    }

    /// Samples that all measure `sample_bytes`, in so many objects of equal size each.
    ///
    /// # Errors
    /// `Invalid` for numbers that cannot be meant.
    pub fn equal(samples: u64, sample_bytes: u64, objects_per_sample: usize) -> Result<Self> {
        let stored = samples.checked_mul(sample_bytes).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "use", format_args!("{samples} samples of {sample_bytes} bytes"))
                .because("that is more than 18 exabytes")
        })?;
        let objects = objects_per_sample as u64;
        // What does not divide goes to the first ones.
        let size = |_, object| Ok(sample_bytes / objects + u64::from((object as u64) < sample_bytes % objects));
        Self::new(samples, objects_per_sample, stored, size)
    }

    pub(super) fn new(
        samples: u64,
        objects_per_sample: usize,
        stored_bytes: u64,
        size_of: impl Fn(u64, usize) -> Result<u64>,
    ) -> Result<Self> {
        let wrong = |what: &str, reason: String| Err(Error::new(ErrorKind::Invalid, "simulate", what).because(reason));
        if samples == 0 || stored_bytes == 0 {
            let reason = "both numbers have to be above 0";
            return wrong(&format!("{samples} samples of {stored_bytes} bytes in all"), reason.to_owned());
        }
        if !(1..=OBJECTS_PER_SAMPLE_AT_MOST).contains(&objects_per_sample) {
            let reason = format!("a sample has 1 to {OBJECTS_PER_SAMPLE_AT_MOST}");
            return wrong(&format!("{objects_per_sample} objects per sample"), reason);
        }
        let each = |sample| (0..objects_per_sample).map(move |object| (sample, object));
        let chosen = chosen(samples, OBJECTS_AT_MOST / objects_per_sample);
        let sizes = chosen.into_iter().flat_map(each).map(|(sample, object)| size_of(sample, object));
        let objects = sizes.collect::<Result<Vec<_>>>()?;
        if objects.iter().all(|&bytes| bytes == 0) {
            return wrong("nothing", format!("the {} objects that were drawn are empty", objects.len()));
        }
        Ok(Self { samples, objects_per_sample, stored_bytes, objects })
    }

    /// Samples of the dataset.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Objects of each.
    pub fn objects_per_sample(&self) -> usize {
        self.objects_per_sample
    }

    /// Bytes of all objects, as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// The same of so many objects at most, or of one sample.
    pub(super) fn thinned(&self, objects: usize) -> Cow<'_, Self> {
        if self.objects.len() <= objects {
            return Cow::Borrowed(self);
        }
        let chosen = chosen(self.walked_samples() as u64, (objects / self.objects_per_sample).max(1));
        let of = |sample: u64| {
            let first = sample as usize * self.objects_per_sample;
            &self.objects[first..first + self.objects_per_sample]
        };
        Cow::Owned(Self { objects: chosen.into_iter().flat_map(of).copied().collect(), ..*self })
    }

    /// Samples that are walked.
    pub(super) fn walked_samples(&self) -> usize {
        self.objects.len() / self.objects_per_sample
    }

    /// Sizes of the objects that are walked, sample by sample.
    pub(super) fn objects(&self) -> &[u64] {
        &self.objects
    }

    /// Bytes that are walked to bytes of the dataset.
    pub(super) fn share(&self) -> f64 {
        self.objects.iter().sum::<u64>() as f64 / self.stored_bytes as f64
    }
}

/// Samples that stand for all, ascending.
fn chosen(samples: u64, at_most: usize) -> Vec<u64> {
    if samples <= at_most as u64 {
        return (0..samples).collect();
    }
    let shuffled = Permutation::new(samples, 0, 0);
    let mut chosen: Vec<_> = (0..at_most as u64).map(|position| shuffled.at(position)).collect();
    chosen.sort_unstable();
    chosen
}
