//! The commands, one file each.

mod cache;
mod demo;
mod docs;
mod doctor;
mod index;
mod init;
mod inspect;
mod ls;
mod simulate;

use std::io::Write;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

use crate::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Ls(ls::Ls),
    Inspect(inspect::Inspect),
    Init(init::Init),
    Index(index::Index),
    Doctor(doctor::Doctor),
    Cache(cache::Cache),
    Simulate(simulate::Simulate),
    Demo(demo::Demo),
    #[command(hide = true)]
    Docs(docs::Docs),
}

impl Command {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        match self {
            Command::Ls(it) => it.run(out),
            Command::Inspect(it) => it.run(out),
            Command::Init(it) => it.run(out),
            Command::Index(it) => it.run(out),
            Command::Doctor(it) => it.run(out),
            Command::Cache(it) => it.run(out),
            Command::Simulate(it) => it.run(out),
            Command::Demo(it) => it.run(out),
            Command::Docs(it) => it.run(out),
        }
    }
}

/// A bar on standard error, invisible unless that is a terminal.
fn progress_bar(what: &'static str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
    ProgressBar::new(total).with_style(style).with_message(what)
}

/// A counter on standard error for work of unknown length.
fn progress_count(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {pos}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::no_length().with_style(style).with_message(what)
}
