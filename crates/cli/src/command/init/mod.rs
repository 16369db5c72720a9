//! `headwater init`.

#![allow(clippy::disallowed_methods)] // what it makes is a file

mod file;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use headwater::config::{ByteSize, DatasetConfig};
use headwater::dataset::Dataset;
use headwater::manifest::OnMissing;
use headwater::source;
use headwater::{Error, ErrorKind};

use super::progress_count;
use crate::Failure;
use crate::joining::Joining;
use crate::place::Place;
use file::Found;

/// Write a headwater.toml for the samples at a place, with every other setting in it as a comment
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  headwater init s3://bucket/run\n  headwater init /data/run --output - | less\n\n\
                  hw.open(\"headwater.toml\") opens its loader. Which part of a file's name is a sample's key is found out from the \
                  names that there are; --pair says it.")]
pub(crate) struct Init {
    /// Path or URI whose sub-folders are the fields
    uri: String,
    /// Where to write it; - is standard output
    #[arg(long, short, value_name = "FILE", default_value = "headwater.toml")]
    output: PathBuf,
    /// Replace the file where there is one
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    joining: Joining,
    #[command(flatten)]
    place: Place,
}

impl Init {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let is_printed = self.output == Path::new("-");
        let wrong = |subject: &dyn std::fmt::Display, reason: &str| {
            Error::new(ErrorKind::Invalid, "use", subject).because(reason)
        };
        if Path::new(&self.uri).extension().is_some_and(|suffix| suffix == "toml") {
            return Err(wrong(&self.uri, "give the place of the samples, not a file that describes it").into());
        }
        if !is_printed && !self.force && self.output.exists() {
            return Err(wrong(&self.output.display(), "it is there already; --force replaces it").into());
        }
        if self.place.spec(&self.uri).has_secrets() {
            let reason = "it would be in the file: leave credentials to the environment";
            return Err(wrong(&"a credential", reason).into());
        }
        let config = DatasetConfig { guess_pairs: true, ..self.joining.config(&self.uri, &self.place)? };
        let config = config.with_absolute_paths()?;
        let (listed, bar) = (Arc::new(AtomicU64::new(0)), progress_count("objects listed"));
        let shown = || {
            bar.set_position(listed.load(Ordering::Relaxed));
            Ok(())
        };
        let dataset = Dataset::index(&config, &listed, &shown);
        bar.finish_and_clear();
        let dataset = dataset?;
        let manifest = dataset.manifest();
        let text = file::text(&Found {
            uri: config.source.as_ref().map_or(&*self.uri, |place| &place.0[0].uri),
            options: &self.place.options(),
            skips_missing: config.on_missing == OnMissing::Skip,
            manifest,
        });
        // What is written is what is read: with a bug here nobody should find out later.
        DatasetConfig::from_toml(&text)?;
        if is_printed {
            return Ok(out.write_all(text.as_bytes())?);
        }
        self.write(&text)?;
        let (samples, bytes) = (manifest.len(), ByteSize(manifest.stored_bytes()));
        writeln!(out, "{}: {samples} samples, {bytes}", self.output.display())?;
        writeln!(out, "open it with hw.open({:?})", self.output.display().to_string())?;
        if source::local_path(&self.uri)?.is_none() {
            writeln!(out, "`disk` in its [cache] keeps what was read for later epochs and runs")?;
        }
        Ok(())
    }

    /// All of it or nothing.
    fn write(&self, text: &str) -> Result<(), Error> {
        let failed = |cause| Error::io("write", self.output.display(), cause);
        if !self.force {
            let file = OpenOptions::new().write(true).create_new(true).open(&self.output);
            return file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed);
        }
        let mut name = self.output.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let beside = self.output.with_file_name(name);
        let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, &self.output));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written.map_err(failed)
    }
}
