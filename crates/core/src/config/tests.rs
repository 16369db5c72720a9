use std::time::Duration;

use super::*;

const TOML: &str = r#"
on_missing = "skip"
manifest_max_age = "10m"

[fields]
latents = "s3://bucket/latents"
conditions = { uri = "/data/conditions" }

[storage_options.s3]
endpoint = "http://127.0.0.1:9000"
region = "eu"

[storage_options.latents]
region = "us"

[pairs]
latents = "latent_*"
"#;

#[test]
fn reads_toml_and_keeps_the_order_of_fields() {
    let config = DatasetConfig::from_toml(TOML).expect("reads");
    assert_eq!(config.fields.keys().collect::<Vec<_>>(), ["latents", "conditions"]);
    assert_eq!(config.on_missing, OnMissing::Skip);
    assert_eq!(config.manifest_max_age.0, Duration::from_mins(10));
    let again = DatasetConfig::from_json(&config.to_json(Secrets::Refuse).expect("no secrets")).expect("reads");
    assert_eq!(again, config);
}

#[test]
fn paths_in_a_file_are_relative_to_its_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("headwater.toml");
    let read = |text: &str| {
        fs::write(&file, text).expect("written");
        DatasetConfig::from_toml_file(&file).expect("reads")
    };
    let config = read("source = \"data\"\nmanifest = \"of-run\"\n[cache]\ndisk = \"cache\"\n");
    let below = |name: &str| folder.path().join(name);
    assert_eq!(config.sources()[0].1[0].uri, below("data").to_string_lossy());
    assert_eq!(config.manifest.as_deref().map(Path::new), Some(&*below("of-run")));
    assert_eq!(config.cache.disk, Some(below("cache")));
    let elsewhere = read("source = \"/data\"\n[cache]\ndisk = \"/nvme/headwater\"\n");
    assert_eq!(elsewhere.sources()[0].1[0].uri, "/data");
    assert_eq!(elsewhere.cache.disk.as_deref(), Some(Path::new("/nvme/headwater")));
}

#[test]
fn a_fields_options_come_before_its_schemes() {
    let sources = DatasetConfig::from_toml(TOML).expect("reads").sources();
    assert_eq!(sources[0].1[0].options.get("region"), Some("us"));
    assert_eq!(sources[0].1[0].options.get("endpoint"), Some("http://127.0.0.1:9000"));
    assert_eq!(sources[1].1[0].options.get("region"), None);
}

#[test]
fn explicit_credentials_are_not_written_out() {
    let config = DatasetConfig::from_json(
        r#"{"source": {"uri": "s3://b/x", "access_key_id": "AKIAX", "secret_access_key": "hunter2"}}"#,
    )
    .expect("reads");
    let error = config.to_json(Secrets::Refuse).expect_err("refused");
    assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
    assert!(!format!("{error:?}{config:?}").contains("hunter2"));
    let handed = config.to_json(Secrets::Include).expect("handed over");
    assert_eq!(DatasetConfig::from_json(&handed).expect("reads"), config);
}

#[test]
fn wrong_configurations_say_what_is_wrong() {
    for (json, word) in [
        ("{}", "either `fields`"),
        (r#"{"source": "/a", "fields": {"a": "/a"}}"#, "either `fields`"),
        (r#"{"source": "/a", "chache": {}}"#, "chache"),
        (r#"{"fields": {"__key__": "/a"}}"#, "two underscores"),
        (r#"{"fields": {"a": "/a"}, "pairs": {"b": "*"}}"#, "not there"),
        (r#"{"fields": {"a": "/a"}, "pairs": {"a": "**"}}"#, "one `*`"),
        (r#"{"source": "/a", "manifest_max_age": "1 year"}"#, "10m"),
        (r#"{"source": "/a", "manifest_max_age": -1}"#, "negative"),
        (r#"{"source": "/a", "on_missing": "ignore"}"#, "skip"),
        (r#"{"source": "/a", "cache": {"disk": ""}}"#, "`cache.disk`: it is empty"),
    ] {
        let error = DatasetConfig::from_json(json).expect_err(json);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.report().contains(word), "{json}: {error}");
    }
}

#[test]
fn durations_read_as_people_write_them() {
    for (text, seconds) in
        [("90", 90.0), ("90s", 90.0), ("1.5h", 5400.0), ("2d", 172_800.0), ("250ms", 0.25), ("0", 0.0)]
    {
        assert_eq!(text.parse::<Span>().expect(text).0, Duration::from_secs_f64(seconds));
    }
}

#[test]
fn sizes_read_as_people_write_them() {
    for (text, bytes) in [
        ("8GB", 8_000_000_000),
        ("8 GiB", 8 << 30),
        ("1.5MB", 1_500_000),
        ("512k", 512_000),
        ("64KiB", 65_536),
        ("0", 0),
        ("4096", 4096),
        ("2tb", 2_000_000_000_000),
    ] {
        assert_eq!(text.parse::<ByteSize>().expect(text).0, bytes, "{text}");
    }
    for text in ["", "GB", "8 GX", "-1", "1e30 TB", "8GB of it"] {
        let error = text.parse::<ByteSize>().expect_err(text).to_string();
        assert!(error.contains("write it like 8GB, 512MiB"), "{error}");
    }
}
