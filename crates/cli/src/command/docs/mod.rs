//! `headwater docs`: the text of `docs/cli.md`, `docs/configuration.md` and `docs/metrics.md`.

mod commands;
mod configuration;
mod metrics;

use std::io::Write;

use clap::{Args, ValueEnum};

use crate::Failure;

/// Print a reference as Markdown
#[derive(Debug, Args)]
pub(crate) struct Docs {
    /// Which
    #[arg(value_enum, default_value_t = Reference::Cli)]
    reference: Reference,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Reference {
    /// All commands
    Cli,
    /// All settings
    Configuration,
    /// All metrics
    Metrics,
}

impl Docs {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        match self.reference {
            Reference::Cli => commands::write(out),
            Reference::Configuration => configuration::write(out),
            Reference::Metrics => metrics::write(out),
        }
    }
}
