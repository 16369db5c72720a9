use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use headwater_testkit::server::{Class, Server, Speed};
use serde_json::Value as Json;
use tempfile::TempDir;

use super::{err, headwater, out, text};

const SAMPLES: u64 = 200;
const BYTES: u64 = SAMPLES * (3000 + 1000);

/// Two fields whose objects are named differently; nothing decodes them.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("directory");
    for (field, bytes) in [("latent", 3000), ("condition", 1000)] {
        let folder = dir.path().join(format!("{field}s"));
        fs::create_dir(&folder).expect("folder");
        for sample in 0..SAMPLES {
            fs::write(folder.join(format!("{field}_{sample}.pt")), vec![0; bytes]).expect("written");
        }
    }
    dir
}

const PAIRS: [&str; 4] = ["--pair", "latents=latent_*", "--pair", "conditions=condition_*"];

/// What is not said of the place and the request for JSON.
fn simulated(arguments: &[&str]) -> Json {
    let output = headwater(&[&["simulate", "--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    serde_json::from_str(&out(&output)).expect("JSON")
}

fn reuse(document: &Json, list: &str, number: usize) -> f64 {
    document[list][number]["usual_epoch"]["reuse"].as_f64().expect("a share")
}

fn policies(document: &Json) -> Vec<&str> {
    let policies = document["policies"].as_array().expect("policies");
    policies.iter().map(|policy| policy["policy"].as_str().expect("a name")).collect()
}

#[test]
fn a_folder_is_simulated_by_the_sizes_of_its_objects() {
    let dir = folder();
    let arguments = [&PAIRS[..], &[text(dir.path()), "--memory", "0", "--disk", "400KB", "--ratio", "1"]].concat();
    let document = simulated(&arguments);
    assert_eq!((document["samples"].as_u64(), document["bytes"].as_u64()), (Some(SAMPLES), Some(BYTES)));
    assert_eq!(
        (document["objects_per_sample"].as_u64(), document["walked_samples"].as_u64()),
        (Some(2), Some(SAMPLES))
    );
    assert_eq!(policies(&document), ["auto", "keep", "lru"]);
    let read = document["policies"][0]["usual_epoch"]["bytes"].as_u64().expect("bytes");
    assert!(read.abs_diff(BYTES / 2) <= 3000, "half of the bytes fit: {document:#}");
    assert!(reuse(&document, "policies", 2) < 0.3, "{document:#}");
    let first = &document["policies"][0]["epochs"][0];
    assert_eq!((first["bytes"].as_u64(), first["requests"].as_u64()), (Some(BYTES), Some(2 * SAMPLES)));
    let disks = document["disks"].as_array().expect("disks");
    assert_eq!(
        disks.iter().map(|disk| disk["disk_bytes"].as_u64().expect("bytes")).collect::<Vec<_>>(),
        [200_000, 400_000, 800_000]
    );
    assert_eq!(disks[1]["usual_epoch"], document["policies"][0]["usual_epoch"]);
    assert_eq!(disks[2]["usual_epoch"]["requests"], 0);
}

#[test]
fn the_text_says_what_was_assumed_what_each_policy_gives_and_what_other_disks_would() {
    let dir = folder();
    let arguments = [text(dir.path()), "--memory", "80KB", "--disk", "400KB", "--nodes", "2", "--ranks-per-node", "4"];
    let output = headwater(&[&["simulate"], &arguments[..], &PAIRS].concat());
    let shown = out(&output);
    assert_eq!((output.status.code(), err(&output)), (Some(0), String::new()));
    for words in [
        "200 samples of 2 objects, 800 KB stored, 800 KB when all is kept (ratio 1)",
        "2 nodes of 4 ranks; 80.0 KB of memory per rank, 400 KB of disk per node",
        "10 epochs, a new order every epoch",
        "the first epoch reads everything: 800 KB in 400 requests",
        "per epoch with other disks, policy auto",
        "as planned",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    for policy in ["auto ", "keep ", "lru "] {
        assert_eq!(shown.lines().filter(|line| line.starts_with(policy)).count(), 1, "{shown}");
    }
    assert!(!shown.contains("stand for all"), "{shown}");
    assert_eq!(shown.lines().filter(|line| line.starts_with("800 KB ")).count(), 1, "a disk for all: {shown}");
}

#[test]
fn a_manifest_is_simulated_like_the_place_it_was_made_of() {
    let dir = folder();
    let manifest = dir.path().join("of-run");
    let indexed = headwater(&[&["index", text(dir.path()), "--publish", text(&manifest)], &PAIRS[..]].concat());
    assert_eq!(indexed.status.code(), Some(0), "{}", err(&indexed));
    let plan = ["--memory", "100KB", "--ranks-per-node", "2", "--policy", "keep"];
    let of_place = simulated(&[&[text(dir.path())], &PAIRS[..], &plan].concat());
    assert_eq!(simulated(&[&[text(&manifest)], &plan[..]].concat()), of_place);
    assert_eq!(policies(&of_place), ["keep"]);
    assert!((reuse(&of_place, "policies", 0) - 0.125).abs() < 0.02, "{of_place:#}");
}

#[test]
fn what_a_configuration_says_holds_unless_an_option_says_otherwise() {
    let dir = folder();
    let toml = dir.path().join("headwater.toml");
    let configuration = "source = \".\"\n[pairs]\nlatents = \"latent_*\"\nconditions = \"condition_*\"\n\
                         [cache]\nmemory = \"80KB\"\npolicy = \"lru\"\n[loader]\nbatch_size = 4\nseed = 7\nshuffle = true\n";
    fs::write(&toml, configuration).expect("written");
    let said = simulated(&[text(&toml)]);
    let of = |document: &Json, name: &str| document[name].clone();
    let names = ["memory_bytes", "policy", "batch_size", "seed", "shuffle"];
    let all = |document: &Json| Json::from(names.map(|name| of(document, name)).to_vec()).to_string();
    assert_eq!(all(&said), r#"[80000,"lru",4,7,true]"#);
    let options = ["--memory", "1MB", "--policy", "auto", "--batch-size", "8", "--seed", "1", "--sequential"];
    let otherwise = simulated(&[&[text(&toml)], &options[..]].concat());
    assert_eq!(all(&otherwise), r#"[1000000,"auto",8,1,false]"#);
    // How much of a folder it may take by default, is for the machine to say that has it.
    fs::write(&toml, configuration.replace("[cache]", "[cache]\ndisk = \"kept\"")).expect("written");
    let unknown = headwater(&["simulate", text(&toml)]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(err(&unknown).contains("give --disk, or disk_capacity in the headwater.toml"), "{}", err(&unknown));
    assert_eq!(simulated(&[text(&toml), "--disk", "200KB"])["disk_bytes"].as_u64(), Some(200_000));
    assert!(!dir.path().join("kept").exists(), "nothing is kept for a simulation");
    let refused = headwater(&[&["simulate", text(&toml)], &PAIRS[..]].concat());
    assert_eq!(refused.status.code(), Some(2));
    assert!(err(&refused).contains("a headwater.toml says that itself"), "{}", err(&refused));
}

#[test]
fn numbers_alone_will_do_and_many_samples_are_thinned_out() {
    let arguments = ["--samples", "100000000", "--sample-size", "6.8MB", "--objects", "2", "--ratio", "2.9"];
    let document = simulated(&[&arguments[..], &["--disk", "117TB", "--ranks-per-node", "8"]].concat());
    assert_eq!(document["bytes"].as_u64(), Some(680_000_000_000_000));
    assert_eq!(document["walked_samples"].as_u64(), Some(25_000));
    assert!((reuse(&document, "policies", 0) - 0.5).abs() < 0.01, "{document:#}");
    let shown = out(&headwater(&[&["simulate", "--memory", "0"], &arguments[..]].concat()));
    assert!(shown.contains("25,000 of the samples stand for all"), "{shown}");
    assert!(shown.contains("0 B") && shown.contains("100.0 %"), "{shown}");
    let few_epochs = ["--nodes", "8", "--disk", "1PB", "--epochs", "3", "--policy", "keep"];
    let shown = out(&headwater(&[&["simulate"], &arguments[..], &few_epochs].concat()));
    assert!(shown.contains("* still filling: this is epoch 3, later ones reuse more"), "{shown}");
}

fn in_bucket(server: &Server, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.envs([("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "key"), ("HOME", "/nonexistent")]);
    let output = command.args(arguments).args(["--endpoint", &server.endpoint()]).output().expect("the command runs");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    output
}

#[test]
fn of_a_bucket_only_the_list_of_objects_is_read() {
    let (dir, server) = (folder(), Server::start(Speed::default()).expect("a server"));
    server.put_folder(dir.path()).expect("stored");
    let of_place = in_bucket(&server, &[&["simulate", "s3://bucket", "--json"], &PAIRS[..]].concat());
    assert_eq!(server.requests_of(Class::Get), 0);
    in_bucket(&server, &[&["index", "s3://bucket", "--publish"], &PAIRS[..]].concat());
    let of_manifest = in_bucket(&server, &["simulate", "s3://bucket/_headwater.manifest", "--json"]);
    assert_eq!(server.requests_of(Class::Get), 1);
    assert_eq!(out(&of_manifest), out(&of_place));
}

#[test]
fn mistakes_say_what_to_do() {
    let dir = folder();
    let no_manifest = dir.path().join("latents/latent_0.pt");
    let nowhere = Path::new("/nowhere/at/all");
    for (arguments, code, words) in [
        (vec![], 2, "give either a place, whose sizes are then listed, or both --samples and --sample-size"),
        (vec!["--samples", "10"], 2, "give either a place"),
        (vec![text(dir.path()), "--sample-size", "1MB"], 2, "give either a place"),
        (
            vec!["--samples", "0", "--sample-size", "1MB"],
            2,
            "`0 samples of 0 bytes in all`: both numbers have to be above 0",
        ),
        (vec!["--samples", "9", "--sample-size", "much"], 2, "write it like 8GB"),
        (vec!["--samples", "9", "--sample-size", "1MB", "--policy", "fifo"], 2, "there are auto, keep and lru"),
        (vec!["--samples", "9", "--sample-size", "1MB", "--nodes", "0"], 2, "`nodes = 0`: it must be at least 1"),
        (vec!["--samples", "9", "--sample-size", "1MB", "--ratio", "0"], 2, "such as 2.9"),
        (vec!["--samples", "9", "--sample-size", "1MB", "--epochs", "1"], 2, "walk 2 at least"),
        (vec!["--samples", "9", "--sample-size", "1MB", "--skip-missing"], 2, "only places that are listed need it"),
        (vec![text(nowhere)], 3, "cannot open directory `/nowhere/at/all`"),
        (vec![text(&no_manifest)], 5, "give a folder, a URI, a headwater.toml or a published manifest"),
        (vec!["/nowhere/run.manifest"], 3, "cannot read the manifest `/nowhere/run.manifest`"),
        (vec![text(dir.path())], 3, "latent"),
    ] {
        let output = headwater(&[&["simulate"], &arguments[..]].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", err(&output));
        assert!(err(&output).contains(words), "{arguments:?}: {}", err(&output));
        assert!(out(&output).is_empty());
    }
}
