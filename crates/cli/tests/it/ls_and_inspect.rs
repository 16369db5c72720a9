use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use headwater::codec::{Codec, Zstd};
use headwater::value::{DType, Dict, Tensor, Value};
use headwater::{error::ErrorKind, object};
use serde_json::Value as Json;
use tempfile::TempDir;

use super::{err, headwater, out, text};

fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("directory");
    let data: Vec<u8> = [1.5_f32, -2.0, 0.25].iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = Tensor::from_bytes(DType::F32, &[3, 1], data.into()).expect("tensor");
    let value = Value::Dict(Dict::from_iter([("latents", Value::Tensor(tensor)), ("fps", Value::Float(24.0))]));
    object::save(&dir.path().join("b.pt"), &value).expect("saved");
    fs::create_dir(dir.path().join("a")).expect("folder");
    object::save(&dir.path().join("a/x.pt"), &value).expect("saved");
    fs::write(dir.path().join("broken.pt"), b"PK\x03\x04 not a zip").expect("written");
    dir
}

#[test]
fn ls_prints_keys_in_order_and_a_summary_beside() {
    let dir = folder();
    let output = headwater(&["ls", text(dir.path())]);
    let keys: Vec<_> = out(&output).lines().map(|line| line.rsplit("  ").next().unwrap_or("").to_owned()).collect();
    assert_eq!(keys, ["a/x.pt", "b.pt", "broken.pt"]);
    assert!(err(&output).starts_with("3 objects, "), "{}", err(&output));
    let output = headwater(&["ls", text(dir.path()), "--suffix", "x.pt", "--json"]);
    let document: Json = serde_json::from_str(&out(&output)).expect("JSON");
    assert_eq!((document["count"].as_u64(), document["objects"][0]["key"].as_str()), (Some(1), Some("a/x.pt")));
}

#[test]
fn inspect_shows_names_types_shapes_and_first_values() {
    let dir = folder();
    let path = dir.path().join("b.pt");
    let shown = out(&headwater(&["inspect", text(&path), "--values", "2"]));
    assert!(shown.contains("\"latents\": float32[3, 1] 12 B  1.5 -2.0 …"), "{shown}");
    assert!(shown.contains("\"fps\": 24.0"), "{shown}");
    let document: Json = serde_json::from_str(&out(&headwater(&["inspect", text(&path), "--json"]))).expect("JSON");
    assert_eq!(document["value"]["items"][0]["value"]["dtype"], "float32");
    assert_eq!(document["tensor_bytes"], 12);
}

#[test]
fn inspect_finds_the_compressed_twin_and_understands_file_uris() {
    let dir = folder();
    let odd = dir.path().join("with space");
    fs::create_dir(&odd).expect("folder");
    let plain = fs::read(dir.path().join("b.pt")).expect("there");
    fs::write(odd.join("x.pt.zst"), Zstd.encode(&plain).expect("compressed")).expect("written");
    let uri = format!("file://{}/with%20space/x.pt", text(dir.path()));
    let shown = out(&headwater(&["inspect", &uri]));
    assert!(shown.contains("x.pt.zst: ") && shown.contains("\"fps\": 24.0"), "{shown}");
}

#[test]
fn failures_have_their_exit_codes_and_name_the_thing() {
    let dir = folder();
    let broken = dir.path().join("broken.pt");
    for (arguments, code, word) in [
        (["ls", "/nowhere/at/all"], 3, "cannot open directory `/nowhere/at/all`"),
        (["ls", "ftp://host/x"], 2, "unknown scheme `ftp:`"),
        (["ls", "s3:bucket"], 2, "expected `s3://"),
        (["inspect", text(&dir.path().join("c.pt"))], 3, "c.pt"),
        (["inspect", text(&broken)], 5, "broken.pt`: cannot read `zip archive`"),
        (["inspect", text(&dir.path().join("a"))], 3, "no regular file"),
    ] {
        let output = headwater(&arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", err(&output));
        assert!(err(&output).contains(word), "{arguments:?}: {}", err(&output));
        assert!(out(&output).is_empty());
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure_to_talk_about() {
    let dir = tempfile::tempdir().expect("directory");
    for number in 0..5000 {
        fs::write(dir.path().join(format!("a_rather_long_name_to_fill_the_pipe_{number}.pt")), b"").expect("written");
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_headwater"))
        .args(["ls", text(dir.path())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let mut first = [0; 10];
    child.stdout.take().expect("pipe").read_exact(&mut first).expect("some output");
    let output = child.wait_with_output().expect("ends");
    assert_eq!((output.status.code(), err(&output)), (Some(141), String::new()));
}

#[test]
fn what_is_saved_is_whole_or_not_there() {
    let dir = tempfile::tempdir().expect("directory");
    let error = object::save(&dir.path().join("no/such/folder.pt"), &Value::None).expect_err("no folder");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(fs::read_dir(dir.path()).expect("listing").count(), 0);
}
