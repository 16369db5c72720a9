use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater::cache::disk::Disk;
use headwater::clock::Moment;
use headwater::source::{Edition, Version};
use serde_json::Value as Json;
use tempfile::TempDir;

use super::{err, headwater, out, text};

const RECORDS: u64 = 20;

/// A folder with records of two sources.
fn cache() -> TempDir {
    let dir = tempfile::tempdir().expect("directory");
    let disk = Arc::new(Disk::open(dir.path(), Some(1 << 30)).expect("opens"));
    for uri in ["s3://bucket/one", "s3://bucket/two"] {
        let set = disk.set(uri, Some("http://host:9000"), false);
        for number in 0..RECORDS {
            let edition = Edition { version: Version::ETag("\"1\"".into()), size: 9_000 };
            assert!(set.put(&format!("{number}.pt"), &edition, &[7; 10_000], Moment::now()));
        }
    }
    dir
}

fn told(arguments: &[&str]) -> Json {
    let output = headwater(&[&["cache"], arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    serde_json::from_str(&out(&output)).expect("JSON")
}

fn records(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let shards = entries(folder.join("sets")).flat_map(entries);
    shards.flat_map(entries).collect()
}

#[test]
fn ls_says_what_there_is_of_each_source() {
    let dir = cache();
    let listed = told(&["ls", text(dir.path())]);
    let sets = listed["sets"].as_array().expect("sets");
    let mut uris: Vec<_> = sets.iter().map(|set| set["uri"].as_str().expect("a URI")).collect();
    uris.sort_unstable();
    assert_eq!(uris, ["s3://bucket/one", "s3://bucket/two"]);
    assert!(sets.iter().all(|set| set["records"] == RECORDS && set["endpoint"] == "http://host:9000"), "{listed:#}");
    let shown = out(&headwater(&["cache", "ls", text(dir.path())]));
    assert!(
        shown.contains("s3://bucket/one at http://host:9000") && shown.contains("40 records  of 2 sources"),
        "{shown}"
    );
}

#[test]
fn verify_puts_aside_what_is_damaged_and_says_so_by_its_code() {
    let dir = cache();
    assert_eq!(told(&["verify", text(dir.path())])["damaged"], 0);
    for path in &records(dir.path())[..3] {
        let mut bytes = fs::read(path).expect("read");
        bytes[200] ^= 1;
        fs::write(path, bytes).expect("written");
    }
    let output = headwater(&["cache", "verify", text(dir.path())]);
    assert_eq!(output.status.code(), Some(5), "{}", err(&output));
    assert!(out(&output).contains("3 were damaged and are put aside"), "{}", out(&output));
    assert!(out(&output).contains("3 damaged ones are there that were put aside"), "{}", out(&output));
    let checked = told(&["verify", text(dir.path())]);
    assert_eq!((&checked["records"], &checked["quarantine"]), (&(2 * RECORDS - 3).into(), &3.into()), "{checked:#}");
    let listed = told(&["ls", text(dir.path())]);
    let aside = listed["sets"].as_array().expect("sets").iter().find(|set| set["quarantine"] == true).expect("listed");
    assert_eq!(aside["records"], 3, "{listed:#}");
    let shown = out(&headwater(&["cache", "ls", text(dir.path())]));
    assert!(shown.contains("(damaged, put aside)"), "{shown}");
    assert_eq!(told(&["gc", text(dir.path())])["removed"]["records"], 3);
    assert_eq!(told(&["verify", text(dir.path())])["quarantine"], 0);
    assert_eq!(records(dir.path()).len() as u64, 2 * RECORDS - 3);
}

#[test]
fn verify_shows_how_it_gets_on_to_whoever_looks_and_to_nobody_else() {
    let dir = cache();
    let output = headwater(&["cache", "verify", text(dir.path())]);
    assert_eq!((output.status.code(), &*err(&output)), (Some(0), ""), "nothing in a pipe");
    // A terminal, of which `script` writes down what is shown there: what the command says to both of its outputs.
    let on_a_terminal = |more: &str| {
        let command = format!("'{}' cache verify '{}'{more}", env!("CARGO_BIN_EXE_headwater"), text(dir.path()));
        let mut script = std::process::Command::new("script");
        script.args(["--quiet", "--return", "--command", &command, "/dev/null"]).env("TERM", "xterm");
        let output = script.output().expect("`script` of util-linux runs");
        assert_eq!(output.status.code(), Some(0), "{}", out(&output));
        out(&output)
    };
    let shown = on_a_terminal("");
    assert!(shown.contains("records checked [") && shown.contains("40 records of"), "{shown:?}");
    let shown = on_a_terminal(" --json 2>/dev/null");
    let told: Json = serde_json::from_str(&shown).expect("JSON alone");
    assert_eq!(told["records"], 2 * RECORDS);
}

#[test]
fn verify_goes_on_where_a_file_is_none() {
    let dir = cache();
    let path = &records(dir.path())[0];
    fs::remove_file(path).expect("there");
    assert!(std::process::Command::new("mkfifo").arg(path).status().expect("runs").success());
    let output = headwater(&["cache", "verify", text(dir.path())]);
    assert_eq!(output.status.code(), Some(5), "{}", err(&output));
    assert!(out(&output).contains("1 could not be read and are put aside"), "{}", out(&output));
    let checked = told(&["verify", text(dir.path())]);
    assert_eq!((&checked["records"], &checked["unreadable"]), (&(2 * RECORDS - 1).into(), &0.into()), "{checked:#}");
}

#[test]
fn gc_makes_room_and_clear_empties() {
    let dir = cache();
    let removed = told(&["gc", text(dir.path()), "--to", "200KB"]);
    assert!(removed["removed"]["records"].as_u64().expect("a count") >= 20, "{removed:#}");
    assert!(told(&["ls", text(dir.path())])["bytes"].as_u64().expect("bytes") <= 200_000);
    let dir = cache();
    let removed = told(&["clear", text(dir.path()), "--of", "s3://bucket/one/"]);
    assert_eq!(removed["removed"]["records"], RECORDS);
    let unknown = headwater(&["cache", "clear", text(dir.path()), "--of", "s3://bucket/three"]);
    assert_eq!(unknown.status.code(), Some(3), "{}", err(&unknown));
    let output = headwater(&["cache", "clear", text(dir.path())]);
    assert!(out(&output).starts_with("removed 20 records"), "{}", out(&output));
    assert!(records(dir.path()).is_empty());
}

#[test]
fn a_headwater_toml_names_the_folder_and_what_is_none_is_left_alone() {
    let dir = cache();
    let toml = dir.path().with_extension("toml");
    fs::write(&toml, format!("source = \"s3://bucket/one\"\n[cache]\ndisk = {:?}\n", text(dir.path())))
        .expect("written");
    assert_eq!(told(&["path", text(&toml)])["path"], text(dir.path()));
    assert_eq!(told(&["ls", text(&toml)])["sets"].as_array().expect("sets").len(), 2);
    fs::write(&toml, "source = \"s3://bucket/one\"\n").expect("written");
    let output = headwater(&["cache", "path", text(&toml)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("[cache] has no `disk`"), "{}", err(&output));
    fs::remove_file(&toml).expect("removed");
    let other = tempfile::tempdir().expect("directory");
    fs::write(other.path().join("thesis.txt"), "x").expect("written");
    for what in ["ls", "verify", "gc", "clear"] {
        let output = headwater(&["cache", what, text(other.path())]);
        assert_eq!(output.status.code(), Some(2), "{}", err(&output));
        assert!(err(&output).contains("it is no cache of ours"), "{}", err(&output));
        let output = headwater(&["cache", what, text(&other.path().join("nothing"))]);
        assert_eq!(output.status.code(), Some(3), "{}", err(&output));
    }
    assert_eq!(fs::read_dir(other.path()).expect("read").count(), 1);
}
