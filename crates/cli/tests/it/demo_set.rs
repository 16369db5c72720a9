use std::fs;
use std::time::SystemTime;

use headwater::object;
use headwater::value::Value;
use headwater_cli::demo_set::{DemoSet, Outcome, Scale};
use serde_json::Value as Json;
use xxhash_rust::xxh3::xxh3_64;

use super::{err, headwater, out, text};

fn fingerprint(value: &Value) -> u64 {
    let Value::Dict(dict) = value else { panic!("a dict") };
    let tensors = dict.items.iter().filter_map(|(_, value)| match value {
        Value::Tensor(tensor) => tensor.contiguous_bytes(),
        _ => None,
    });
    xxh3_64(&tensors.flatten().copied().collect::<Vec<_>>())
}

#[test]
fn the_set_is_fixed_for_good() {
    let set = |scale| DemoSet { seed: 0, samples: 8, scale };
    let all = [(Scale::Full, 0), (Scale::Full, 7), (Scale::Small, 0), (Scale::Small, 7)];
    let found = all.map(|(scale, sample)| {
        [fingerprint(&set(scale).latents(sample)), fingerprint(&set(scale).conditions(sample))]
            .map(|hash| format!("{hash:016x}"))
    });
    let golden: [[&str; 2]; 4] = [
        ["1a54d57bde8b7b1b", "4ce1bdcfda3950a5"],
        ["e3124d4b2dfd7b23", "3ad2f9f20cf4fac8"],
        ["3b271ed255acc167", "473ce35d6143cb7a"],
        ["5427dd1b8c409b06", "ca9962a05e4fc110"],
    ];
    assert_eq!(found, golden.map(|pair| pair.map(str::to_owned)));
}

#[test]
fn writes_once_and_touches_no_other_set() {
    let dir = tempfile::tempdir().expect("directory");
    let place = dir.path().join("set");
    let arguments = ["demo", "--write", text(&place), "--small", "--samples", "3", "--json"];
    let written: Json = serde_json::from_str(&out(&headwater(&arguments))).expect("JSON");
    assert_eq!((written["samples"].as_u64(), written["written"].as_bool()), (Some(3), Some(true)));
    let object_path = place.join("conditions/condition_00002.pt");
    let before = modified(&object_path);
    let again: Json = serde_json::from_str(&out(&headwater(&arguments))).expect("JSON");
    assert_eq!(again["written"].as_bool(), Some(false));
    assert_eq!(modified(&object_path), before);

    let other = headwater(&["demo", "--write", text(&place), "--small", "--samples", "4"]);
    assert_eq!(other.status.code(), Some(2));
    assert!(err(&other).contains("another demo set (--samples 3 --seed 0 --small)"), "{}", err(&other));
}

#[test]
fn an_interrupted_run_is_gone_on_with_by_the_same_set_only() {
    let dir = tempfile::tempdir().expect("directory");
    let place = dir.path().join("set");
    let arguments = |samples| ["demo", "--write", text(&place), "--small", "--samples", samples];
    assert!(headwater(&arguments("3")).status.success());
    let marker = place.join("demo-set.json");
    let complete = fs::read_to_string(&marker).expect("marker");
    fs::write(&marker, complete.replace("true", "false")).expect("written");
    let (kept, missing) = (place.join("latents/latent_00001.pt"), place.join("conditions/condition_00002.pt"));
    fs::remove_file(&missing).expect("removed");
    let left = place.join("latents/.latent_00002.pt.4321.tmp");
    fs::write(&left, "half").expect("written");
    let before = modified(&kept);

    let other = headwater(&arguments("2"));
    assert_eq!(other.status.code(), Some(2));
    assert!(err(&other).contains("not complete yet (--samples 3"), "{}", err(&other));
    assert!(headwater(&arguments("3")).status.success());
    let value = object::load(&missing).expect("there again");
    assert_eq!(value, DemoSet { seed: 0, samples: 3, scale: Scale::Small }.conditions(2));
    assert_eq!((modified(&kept), left.exists()), (before, false));
    assert_eq!(fs::read_to_string(&marker).expect("marker"), complete);
}

#[test]
fn says_what_is_to_come_before_it_writes_and_lets_nobody_else_write() {
    let dir = tempfile::tempdir().expect("directory");
    let set = DemoSet { seed: 1, samples: 1, scale: Scale::Small };
    let while_writing = || {
        let marker = fs::read_to_string(dir.path().join("demo-set.json")).expect("marker");
        assert!(marker.contains("\"complete\":false"), "{marker}");
        let error = set.write(dir.path(), &|| {}).expect_err("locked");
        assert!(error.to_string().contains("another process"), "{error}");
    };
    assert_eq!(set.write(dir.path(), &while_writing).expect("written"), Outcome::Written);
    assert_eq!(set.write(dir.path(), &|| {}).expect("there"), Outcome::Complete);
}

#[test]
fn a_set_whose_marker_was_written_last_is_complete() {
    let dir = tempfile::tempdir().expect("directory");
    let marker = r#"{"version":1,"seed":0,"samples":2,"scale":"full"}"#;
    fs::write(dir.path().join("demo-set.json"), marker).expect("written");
    let set = DemoSet { seed: 0, samples: 2, scale: Scale::Full };
    assert_eq!(set.write(dir.path(), &|| {}).expect("there"), Outcome::Complete);
}

#[test]
fn refuses_a_directory_that_holds_something_else() {
    let dir = tempfile::tempdir().expect("directory");
    fs::write(dir.path().join("thesis.txt"), "precious").expect("written");
    let output = headwater(&["demo", "--write", text(dir.path()), "--small", "--samples", "1"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read_dir(dir.path()).expect("listing").count(), 1);
}

fn modified(path: &std::path::Path) -> SystemTime {
    fs::metadata(path).and_then(|meta| meta.modified()).expect("there")
}
