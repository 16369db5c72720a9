//! The command as its users see it: the built binary, its output and exit codes.
#![allow(clippy::disallowed_methods)] // tests write files

mod cache;
mod demo_set;
mod doctor;
mod init;
mod ls_and_inspect;
mod simulate;

use std::path::Path;
use std::process::{Command, Output};

fn headwater(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_headwater")).args(arguments).output().expect("the command runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn references_in_docs_are_what_the_command_says() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for reference in ["cli", "configuration"] {
        let kept = std::fs::read_to_string(docs.join(format!("{reference}.md"))).expect("a reference");
        assert!(kept == out(&headwater(&["docs", reference])), "docs/{reference}.md is stale: run `make docs`");
    }
}

#[test]
fn help_and_version_go_to_standard_output_and_mistakes_do_not() {
    for (arguments, code) in [(&["--help"][..], 0), (&["--version"], 0), (&["ls"], 2), (&["fetch"], 2), (&[], 2)] {
        let output = headwater(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert_eq!(out(&output).is_empty(), code != 0, "{arguments:?}");
    }
}
