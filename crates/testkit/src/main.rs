//! `headwater-testkit FOLDER [--first-byte 30ms] [--stream-rate 100MB] [--total-rate 1GB] [--keys N] [--seed N] [--fault RULE]…`:
//! serves a folder from memory, over S3 and other protocols, as slow and as badly as it is told to.
//!
//! Prints one JSON line that says where, then serves until its standard input ends: so it never outlives who started it. Lines of
//! standard input are commands, each answered by one JSON line: `fault RULE` adds a rule, `clear` ends all faults, `kill` closes the
//! port and resets every connection, `revive` opens it again, `expect WORD…` refuses other credentials, `stats` tells what was
//! asked for.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a program

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use headwater::config::{ByteSize, Span};
use headwater_testkit::server::{BUCKET, Class, DATASET, Rule, Server, Speed, TOKEN};
use serde_json::{Value, json};

fn main() -> ExitCode {
    match serve(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("headwater-testkit: {reason}");
            ExitCode::from(2)
        }
    }
}

#[derive(Default)]
struct Options {
    speed: Speed,
    rules: Vec<Rule>,
    seed: u64,
    keys: usize,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let size = || value.parse::<ByteSize>().map(|size| Some(size.0)).map_err(|error| error.report());
            let number = || value.parse::<u64>().map_err(|_| format!("{name} needs a number, not `{value}`"));
            match name.as_str() {
                "--first-byte" => options.speed.first_byte = value.parse::<Span>().map_err(|error| error.report())?.0,
                "--stream-rate" => options.speed.stream_rate = size()?,
                "--total-rate" => options.speed.total_rate = size()?,
                "--fault" => options.rules.push(value.parse()?),
                "--seed" => options.seed = number()?,
                "--keys" => options.keys = number()? as usize,
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(options)
    }
}

fn serve(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let folder = arguments.next().ok_or("expected a folder to serve")?;
    let options = Options::read(arguments)?;
    let server = Server::start(options.speed).map_err(|cause| format!("cannot start: {cause}"))?;
    let stored = server.put_folder(Path::new(&folder)).map_err(|cause| format!("cannot read `{folder}`: {cause}"))?;
    server.put_synthetic(options.keys);
    server.set_seed(options.seed);
    server.set_faults(options.rules);
    say(&json!({
        "endpoint": server.endpoint(), "bucket": BUCKET, "objects": stored + options.keys, "region": "test",
        "access_key_id": "any", "secret_access_key": "any", "gcs": server.gcs(), "azure": server.azure(),
        "hub": server.hub(), "http": server.http(), "dataset": DATASET, "token": TOKEN,
    }))?;
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { break };
        if !line.trim().is_empty() {
            say(&obey(&server, line.trim()).unwrap_or_else(|reason| json!({"error": reason})))?;
        }
    }
    Ok(())
}

fn obey(server: &Server, line: &str) -> Result<Value, String> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("fault", rule) => server.add_fault(rule.parse()?),
        ("clear", "") => server.set_faults(Vec::new()),
        ("expect", words) => server.expect(words.split_whitespace().map(str::to_owned).collect()),
        ("kill", "") => server.kill().map_err(|cause| cause.to_string())?,
        ("revive", "") => server.revive().map_err(|cause| cause.to_string())?,
        ("stats", "") => {
            return Ok(json!({
                "requests": server.requests(), "get": server.requests_of(Class::Get),
                "list": server.requests_of(Class::List), "head": server.requests_of(Class::Head),
                "other": server.requests_of(Class::Other), "faults": server.faults_done(),
                "tokens_leaked": server.tokens_leaked(), "connections": server.connections(),
                "connections_open": server.connections_open(),
            }));
        }
        _ => {
            return Err(format!(
                "unknown command `{line}`: expected fault RULE, clear, kill, revive, expect WORD… or stats"
            ));
        }
    }
    Ok(json!({"ok": true}))
}

fn say(value: &Value) -> Result<(), String> {
    let mut out = std::io::stdout();
    writeln!(out, "{value}").and_then(|()| out.flush()).map_err(|cause| cause.to_string())
}
