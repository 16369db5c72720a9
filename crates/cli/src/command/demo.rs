//! `headwater demo`.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use headwater::Result;
use headwater::config::ByteSize;
use serde_json::json;

use super::progress_bar;
use crate::Failure;
use crate::demo_set::{DemoSet, Outcome, Scale};

/// Write the demo set: realistic latents and text embeddings, the same on every machine
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  headwater demo --write target/demo-set\n  headwater demo --write /tmp/small --small --samples 1000"
)]
pub(crate) struct Demo {
    /// Directory to write to; made if needed
    #[arg(long, value_name = "DIR")]
    write: PathBuf,
    /// Number of samples; 150 are about 1 GB
    #[arg(long, value_name = "N", default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: u32,
    /// Samples of 96 KB instead of 6.8 MB
    #[arg(long)]
    small: bool,
    /// Another seed makes another set
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Demo {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let scale = if self.small { Scale::Small } else { Scale::Full };
        let set = DemoSet { seed: self.seed, samples: self.samples, scale };
        let bar = progress_bar("writing samples", self.samples.into());
        let outcome = set.write(&self.write, &|| bar.inc(1))?;
        bar.finish_and_clear();
        let bytes = set.stored_bytes(&self.write)?;
        if self.json {
            let written = outcome == Outcome::Written;
            let document =
                json!({"directory": self.write, "samples": self.samples, "bytes": bytes, "written": written});
            return Ok(writeln!(out, "{document}")?);
        }
        let did = if outcome == Outcome::Written { "written to" } else { "already in" };
        let summary = format!("{} samples, {}, {did} {}", self.samples, ByteSize(bytes), self.write.display());
        Ok(writeln!(io::stderr(), "{summary}")?)
    }
}
