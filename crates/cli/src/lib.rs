//! The `headwater` command: what was typed, what it means, do it.
//!
//! [`run`] parses the arguments into one command ([`command`]), which says in its own words what it is to do and does it.
//! Results go to standard output, everything else to standard error; `--json` makes every result one JSON document. Exit
//! codes are in [`exit`]. The binary and Python's console script call the same [`run`].

pub mod demo_set;
pub mod exit;

mod command;
mod joining;
mod place;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Parser;

use command::Command;

/// Streams training samples: look at what is there, and prepare it.
#[derive(Debug, Parser)]
#[command(name = "headwater", version, about, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Runs the command line, its name first, and returns the exit code.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(argv) {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            let printed = error.print();
            return if wrong || printed.is_err() { exit::USAGE } else { exit::OK };
        }
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = cli.command.run(&mut out).and_then(|()| out.flush().map_err(Failure::Output));
    match done {
        Ok(()) => exit::OK,
        // Whoever read our output has seen enough.
        Err(Failure::Output(cause)) if cause.kind() == io::ErrorKind::BrokenPipe => exit::BROKEN_PIPE,
        Err(Failure::Output(cause)) => complain(&format!("cannot write the result: {cause}"), exit::FAILURE),
        Err(Failure::Told(code)) => code,
        Err(Failure::Work(error)) => complain(&error.report(), exit::code_of(error.kind())),
    }
}

fn complain(message: &str, code: u8) -> u8 {
    let _ = writeln!(io::stderr(), "headwater: {message}");
    code
}

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Its work failed.
    Work(headwater::Error),
    /// Its result tells of the failure already; the exit code says it again.
    Told(u8),
    /// Its result could not be written.
    Output(io::Error),
}

impl From<headwater::Error> for Failure {
    fn from(error: headwater::Error) -> Self {
        Failure::Work(error)
    }
}

impl From<io::Error> for Failure {
    fn from(cause: io::Error) -> Self {
        Failure::Output(cause)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(cause: serde_json::Error) -> Self {
        Failure::Output(cause.into())
    }
}
