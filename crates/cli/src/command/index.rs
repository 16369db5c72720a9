//! `headwater index`.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Args;
use headwater::config::{ByteSize, DatasetConfig};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use serde_json::json;

use super::progress_count;
use crate::Failure;
use crate::joining::Joining;
use crate::place::Place;

/// List a dataset once and write its manifest, so that nobody else has to list
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  headwater index s3://bucket/run --publish\n  headwater index headwater.toml --publish /shared/run.manifest\n\n\
                  Others open it with manifest = \"published\", or with the path or URI given here."
)]
pub(crate) struct Index {
    /// Path or URI whose sub-folders are the fields, or a headwater.toml
    uri: String,
    /// Write the manifest beside the data, or to this path or URI
    #[arg(long, value_name = "PLACE", num_args = 0..=1, default_missing_value = "published")]
    publish: Option<String>,
    #[command(flatten)]
    joining: Joining,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

impl Index {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let config = DatasetConfig { manifest: None, ..self.joining.config(&self.uri, &self.place)? };
        self.publish.as_ref().map(|place| Dataset::check_place(&config, place)).transpose()?;
        let (listed, bar, began) = (Arc::new(AtomicU64::new(0)), progress_count("objects listed"), Instant::now());
        let shown = || {
            bar.set_position(listed.load(Ordering::Relaxed));
            Ok(())
        };
        let dataset = Dataset::index(&config, &listed, &shown);
        bar.finish_and_clear();
        let (dataset, took) = (dataset?, began.elapsed());
        let place = self.publish.as_deref().map(|place| dataset.publish(place, uninterrupted())).transpose()?;
        let manifest = dataset.manifest();
        let fields: Vec<_> = manifest.field_names().map(ToString::to_string).collect();
        let objects = listed.load(Ordering::Relaxed);
        if self.json {
            let document = json!({
                "samples": manifest.len(), "fields": fields, "bytes": manifest.stored_bytes(), "objects": objects,
                "missing": manifest.missing().count, "manifest_bytes": manifest.memory_bytes(),
                "order_fingerprint": manifest.order_fingerprint(), "content_fingerprint": manifest.content_fingerprint(),
                "published": place, "seconds": took.as_secs_f64(),
            });
            serde_json::to_writer_pretty(&mut *out, &document)?;
            return Ok(writeln!(out)?);
        }
        let (samples, bytes) = (manifest.len(), ByteSize(manifest.stored_bytes()));
        writeln!(out, "{samples} samples of {} in {objects} objects, {bytes}", fields_shown(&fields))?;
        if manifest.missing().count > 0 {
            writeln!(out, "{} objects are missing; their samples are left out", manifest.missing().count)?;
        }
        writeln!(
            out,
            "listed in {:.1} s; the manifest takes {}",
            took.as_secs_f64(),
            ByteSize(manifest.memory_bytes() as u64)
        )?;
        match place {
            Some(place) => writeln!(out, "written to {place}")?,
            None => writeln!(out, "not published: --publish writes it beside the data, --publish PLACE elsewhere")?,
        }
        Ok(())
    }
}

fn fields_shown(fields: &[String]) -> String {
    match fields {
        [only] if only.is_empty() => "one field".to_owned(),
        fields => fields.join(", "),
    }
}
