//! `headwater-testkit FOLDER [--first-byte 30ms] [--stream-rate 100MB] [--total-rate 1GB]`: serves a folder over S3, from memory.
//!
//! Prints one JSON line that says where, then serves until its standard input ends: so it never outlives who started it.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a program

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use headwater::config::{ByteSize, Span};
use headwater_testkit::server::{BUCKET, Server, Speed};

fn main() -> ExitCode {
    match serve(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("headwater-testkit: {reason}");
            ExitCode::from(2)
        }
    }
}

fn serve(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let folder = arguments.next().ok_or("expected a folder to serve")?;
    let mut speed = Speed::default();
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let size = |value: &str| value.parse::<ByteSize>().map(|size| Some(size.0)).map_err(|error| error.report());
        match name.as_str() {
            "--first-byte" => speed.first_byte = value.parse::<Span>().map_err(|error| error.report())?.0,
            "--stream-rate" => speed.stream_rate = size(&value)?,
            "--total-rate" => speed.total_rate = size(&value)?,
            _ => return Err(format!("unknown option {name}")),
        }
    }
    let server = Server::start(speed).map_err(|cause| format!("cannot start: {cause}"))?;
    let objects = server.put_folder(Path::new(&folder)).map_err(|cause| format!("cannot read `{folder}`: {cause}"))?;
    println!(
        r#"{{"endpoint": "{}", "bucket": "{BUCKET}", "objects": {objects}, "region": "test", "access_key_id": "any", "secret_access_key": "any"}}"#,
        server.endpoint()
    );
    std::io::stdout().flush().map_err(|cause| cause.to_string())?;
    let mut sink = [0; 64];
    while std::io::stdin().read(&mut sink).is_ok_and(|read| read > 0) {}
    Ok(())
}
