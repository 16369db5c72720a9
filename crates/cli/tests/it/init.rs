//! `headwater init`: a file that opens what is there, and says what else there is.

use std::fs;
use std::path::Path;

use headwater::config::DatasetConfig;
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;

use super::{err, headwater, out, text};

fn set(folder: &Path) -> String {
    let set = folder.join("set");
    assert_eq!(headwater(&["demo", "--write", text(&set), "--small", "--samples", "6"]).status.code(), Some(0));
    text(&set).to_owned()
}

#[test]
fn the_file_that_it_writes_opens_the_samples_in_pairs_that_nobody_named() {
    let folder = tempfile::tempdir().expect("folder");
    let (set, file) = (set(folder.path()), folder.path().join("headwater.toml"));
    let output = headwater(&["init", &set, "--output", text(&file)]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains("6 samples"), "{}", out(&output));
    let config = DatasetConfig::from_toml_file(&file).expect("a configuration");
    let pairs: Vec<_> = config.pairs.iter().map(|(name, pattern)| format!("{name} {pattern}")).collect();
    assert_eq!(pairs, ["conditions condition_*", "latents latent_*"]);
    let loader = config.loader.clone().expect("a loader");
    assert!(loader.shuffle && loader.drop_last && loader.batch_size == 8);
    let dataset = Dataset::open(&config, uninterrupted()).expect("opens");
    assert_eq!(dataset.len(), 6);
}

#[test]
fn every_comment_that_is_a_setting_is_one_that_may_be_given() {
    let folder = tempfile::tempdir().expect("folder");
    let output = headwater(&["init", &set(folder.path()), "--output", "-"]);
    let file = out(&output);
    let is_setting = |line: &&str| {
        let name = line.strip_prefix("# ").and_then(|line| line.split_once(" = ")).map(|(name, _)| name);
        name.is_some_and(|name| name.chars().all(|one| one.is_ascii_lowercase() || one == '_'))
    };
    let settings: Vec<_> = file.lines().filter(is_setting).collect();
    assert!(settings.len() >= 30, "{}", settings.len());
    for setting in settings {
        let given = |line: &str| {
            let is_its_table = line.starts_with("# [") && table_of(&file, setting) == line;
            if line == setting || is_its_table { line[2..].to_owned() } else { line.to_owned() }
        };
        let changed: Vec<_> = file.lines().map(given).collect();
        DatasetConfig::from_toml(&changed.join("\n")).unwrap_or_else(|error| panic!("{setting}: {error}"));
    }
}

/// The line with the name of the table that a setting is in.
fn table_of<'a>(file: &'a str, setting: &str) -> &'a str {
    let is_table = |line: &&str| line.trim_start_matches("# ").starts_with('[') && line.ends_with(']');
    let before = file.split(setting).next().unwrap_or_default();
    before.lines().rev().find(is_table).unwrap_or_default()
}

#[test]
fn a_file_that_is_there_stays_as_it_is_unless_that_is_wished() {
    let folder = tempfile::tempdir().expect("folder");
    let (set, file) = (set(folder.path()), folder.path().join("headwater.toml"));
    fs::write(&file, "mine").expect("written");
    let output = headwater(&["init", &set, "--output", text(&file)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("--force"), "{}", err(&output));
    assert_eq!(fs::read_to_string(&file).expect("read"), "mine");
    assert_eq!(headwater(&["init", &set, "--output", text(&file), "--force"]).status.code(), Some(0));
    assert!(fs::read_to_string(&file).expect("read").contains("[loader]"));
    assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 2, "the set and the file");
}

#[test]
fn credentials_are_not_written_and_what_is_not_there_writes_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("headwater.toml");
    let output = headwater(&["init", "s3://bucket/run", "--option", "secret_access_key=hush", "--output", text(&file)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!err(&output).contains("hush") && err(&output).contains("environment"), "{}", err(&output));
    let nowhere = headwater(&["init", text(&folder.path().join("nowhere")), "--output", text(&file)]);
    assert_eq!(nowhere.status.code(), Some(3), "{}", err(&nowhere));
    assert!(!file.exists());
}
