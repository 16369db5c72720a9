//! `headwater ls`.

use std::io::{self, Write};

use clap::Args;
use futures_util::StreamExt;
use headwater::Result;
use headwater::config::ByteSize;
use headwater::engine::{Engine, uninterrupted};
use headwater::source::{ObjectMeta, SourceSpec, Version, list};
use indicatif::ProgressBar;
use serde_json::json;

use super::progress_count;
use crate::Failure;
use crate::place::Place;

/// List the objects of a source, sorted by key
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  headwater ls s3://bucket/run --suffix .pt.zst\n  headwater ls ./latents --long --limit 10"
)]
pub(crate) struct Ls {
    /// Path or URI of the source
    uri: String,
    /// List only objects with this suffix
    #[arg(long, default_value = "", hide_default_value = true)]
    suffix: String,
    /// Show the first N only; the summary counts all
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Show each object's version too
    #[arg(long)]
    long: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

impl Ls {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let objects = self.list()?;
        let bytes: u64 = objects.iter().map(|object| object.size).sum();
        let shown = &objects[..self.limit.unwrap_or(usize::MAX).min(objects.len())];
        if self.json {
            let listed: Vec<_> = shown.iter().map(as_json).collect();
            let document = json!({"uri": SourceSpec::from(&*self.uri).shown_uri(), "count": objects.len(), "bytes": bytes, "objects": listed});
            serde_json::to_writer_pretty(&mut *out, &document)?;
            return Ok(writeln!(out)?);
        }
        for object in shown {
            write!(out, "{:>8}  ", ByteSize(object.size))?;
            if self.long {
                write!(out, "{:<40}  ", object.version.to_string())?;
            }
            writeln!(out, "{}", object.key)?;
        }
        out.flush()?;
        let more = if shown.len() < objects.len() { format!(", {} shown", shown.len()) } else { String::new() };
        Ok(writeln!(io::stderr(), "{} objects, {}{more}", objects.len(), ByteSize(bytes))?)
    }

    fn list(&self) -> Result<Vec<ObjectMeta>> {
        let source = self.place.open(&self.uri)?;
        let (suffix, seen) = (self.suffix.clone(), progress_count("listed"));
        let counter: ProgressBar = seen.clone();
        let listing = async move {
            let mut objects = Vec::new();
            let mut pages = list(source.as_ref(), "");
            while let Some(page) = pages.next().await {
                let page = page?;
                counter.inc(page.len() as u64);
                objects.extend(page.into_iter().filter(|object| object.key.ends_with(&suffix)));
            }
            drop(pages);
            objects.sort_unstable_by(|a: &ObjectMeta, b| a.key.cmp(&b.key));
            Ok(objects)
        };
        let objects = Engine::current()?.block_on("listing", listing, uninterrupted())?;
        seen.finish_and_clear();
        objects
    }
}

fn as_json(object: &ObjectMeta) -> serde_json::Value {
    let version = match &object.version {
        Version::Unknown => serde_json::Value::Null,
        version => version.to_string().into(),
    };
    json!({"key": object.key, "bytes": object.size, "version": version})
}
