use super::*;
use crate::source::Version;

fn object(key: &str) -> ObjectMeta {
    ObjectMeta { key: key.to_owned(), size: key.len() as u64, version: Version::Modified(key.len() as u64) }
}

fn stem(key: &str) -> &str {
    let key = key.strip_suffix(".zst").unwrap_or(key);
    key.strip_suffix(".pt").or_else(|| key.strip_suffix(".npy")).unwrap_or(key)
}

fn listing(keys: &[&str]) -> Listing {
    keys.iter().map(|key| object(key)).collect()
}

fn field<'a>(name: &str, pattern: &str, listing: &'a Listing) -> FieldListing<'a> {
    FieldListing {
        name: name.into(),
        uri: "mem://test",
        folder: String::new(),
        pattern: KeyPattern::parse(pattern).expect("pattern"),
        listing,
    }
}

fn two(latents: &[&str], conditions: &[&str], on_missing: OnMissing) -> Result<Joined> {
    let (latents, conditions) = (listing(latents), listing(conditions));
    join(&[field("latents", "latent_*", &latents), field("conditions", "condition_*", &conditions)], on_missing, stem)
}

#[test]
fn joins_by_key_in_sorted_order_whatever_the_listing_order() {
    let joined = two(&["latent_b.pt.zst", "latent_a.pt"], &["condition_a.pt", "condition_b.npy"], OnMissing::Error);
    let manifest = joined.expect("joins").manifest;
    assert_eq!((manifest.key(0).expect("0"), manifest.key(1).expect("1")), ("a", "b"));
    assert_eq!(manifest.object(1, 0).expect("object"), object("latent_b.pt.zst"));
    assert_eq!(manifest.object(1, 1).expect("object"), object("condition_b.npy"));
    assert_eq!(manifest.key(2).expect_err("2").kind(), ErrorKind::OutOfRange);
    assert_eq!(manifest.stored_bytes(), 15 + 11 + 14 + 15);
}

#[test]
fn a_plain_object_wins_over_its_compressed_twin() {
    let joined = two(&["latent_a.pt.zst", "latent_a.pt"], &["condition_a.pt"], OnMissing::Error).expect("joins");
    assert_eq!(joined.manifest.object(0, 0).expect("object").key, "latent_a.pt");
    assert_eq!(joined.shadowed, 1);
}

#[test]
fn two_formats_of_one_key_are_refused_by_name() {
    let error = two(&["latent_a.pt", "latent_a.npy"], &["condition_a.pt"], OnMissing::Error).expect_err("ambiguous");
    assert!(error.to_string().contains("`latent_a.pt` and `latent_a.npy` both claim key"), "{error}");
}

#[test]
fn missing_partners_are_named_or_skipped_and_counted() {
    let (latents, conditions) = (["latent_a.pt", "latent_b.pt", "latent_c.pt"], ["condition_b.pt", "condition_d.pt"]);
    let error = two(&latents, &conditions, OnMissing::Error).expect_err("missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("3 objects are missing (conditions: a, conditions: c, latents: d)"), "{error}");
    let manifest = two(&latents, &conditions, OnMissing::Skip).expect("skips").manifest;
    assert_eq!((manifest.len(), manifest.missing().count), (1, 3));
}

#[test]
fn fields_that_share_no_key_are_told_how_to_say_where_it_is() {
    let (latents, conditions) = (listing(&["latent_1.pt"]), listing(&["condition_1.pt"]));
    let error =
        join(&[field("a", "*", &latents), field("b", "*", &conditions)], OnMissing::Skip, stem).expect_err("none");
    assert!(error.to_string().contains("first key of `a`: `latent_1`"), "{error}");
    assert!(error.to_string().contains("pairs ="), "{error}");
}

#[test]
fn an_empty_place_is_an_error_that_names_it() {
    let error = two(&[], &["condition_1.pt"], OnMissing::Skip).expect_err("empty");
    assert!(error.to_string().contains("cannot find samples in `mem://test`"), "{error}");
    let error = two(&["other.pt"], &["condition_1.pt"], OnMissing::Skip).expect_err("unmatched");
    assert!(error.to_string().contains("none of its 1 objects matches pattern `latent_*`"), "{error}");
}

#[test]
fn fingerprints_tell_order_and_content_apart() {
    let base = two(&["latent_a.pt"], &["condition_a.pt"], OnMissing::Error).expect("joins").manifest;
    let recompressed = two(&["latent_a.pt.zst"], &["condition_a.pt"], OnMissing::Error).expect("joins").manifest;
    let renamed = two(&["latent_b.pt"], &["condition_b.pt"], OnMissing::Error).expect("joins").manifest;
    assert_eq!(base.order_fingerprint(), recompressed.order_fingerprint());
    assert_ne!(base.content_fingerprint(), recompressed.content_fingerprint());
    assert_ne!(base.order_fingerprint(), renamed.order_fingerprint());
}

#[test]
fn fingerprints_stay_what_they_are() {
    let manifest = two(&["latent_a.pt"], &["condition_a.pt"], OnMissing::Error).expect("joins").manifest;
    assert_eq!(manifest.order_fingerprint(), "367340b124d463a1e93861e907b31aee");
    assert_eq!(manifest.content_fingerprint(), "f2d34f780587e1f11325a5121a442619");
}

#[test]
fn a_stored_manifest_comes_back_and_a_damaged_one_does_not() {
    let dir = tempfile::tempdir().expect("dir");
    let path = store::path_for(dir.path(), "test");
    let manifest = two(&["latent_a.pt", "latent_b.pt.zst"], &["condition_a.pt", "condition_b.pt"], OnMissing::Error)
        .expect("joins")
        .manifest;
    assert_eq!(store::load(&path).expect_err("none yet").kind(), ErrorKind::NotFound);
    store::save(&path, &manifest).expect("saves");
    assert_eq!(store::load(&path).expect("loads"), manifest);
    assert!(store::age(&path).expect("age").as_secs() < 60);
    let bytes = store::encode(&manifest);
    for cut in 0..bytes.len() {
        assert!(store::decode(&bytes[..cut]).is_none(), "cut at {cut}");
    }
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(store::decode(&flipped).is_none(), "flipped at {at}");
    }
}

/// A manifest of before they said what they were made of, and one of since. Only ever added to.
const GOLDEN: [&[u8]; 2] = [
    b"HWMANIF1r\x01\x00\x00\x00\x00\x00\x00{\"samples\":1,\"key_bytes\":1,\"fields\":[{\"name\":\"latents\",\
      \"folder\":\"\",\"pattern\":\"latent_*\",\"suffixes\":[\".pt\"],\"version_bytes\":9},\
      {\"name\":\"conditions\",\"folder\":\"\",\"pattern\":\"condition_*\",\"suffixes\":[\".pt\"],\
      \"version_bytes\":9}],\"missing\":{\"count\":0,\"examples\":[]},\
      \"order_fingerprint\":\"367340b124d463a1e93861e907b31aee\",\
      \"content_fingerprint\":\"f2d34f780587e1f11325a5121a442619\"}a\x01\x00\x00\x00\x00\x00\x00\x00\x00\x0b\
      \x00\x00\x00\x00\x00\x00\x00\x01\x0b\x00\x00\x00\x00\x00\x00\x00\t\x00\x00\x00\x00\x00\x00\x00\x00\x0e\
      \x00\x00\x00\x00\x00\x00\x00\x01\x0e\x00\x00\x00\x00\x00\x00\x00\t\x00\x00\x00\x00\x00\x00\x00\xc8\xd7\
      \xbcwp\r\xc3\xd7",
    b"HWMANIF1\x03\x02\x00\x00\x00\x00\x00\x00{\"samples\":1,\"key_bytes\":1,\
      \"fields\":[{\"name\":\"latents\",\"folder\":\"\",\"pattern\":\"latent_*\",\"suffixes\":[\".pt\"],\
      \"version_bytes\":9},{\"name\":\"conditions\",\"folder\":\"\",\"pattern\":\"condition_*\",\
      \"suffixes\":[\".pt\"],\"version_bytes\":9}],\"missing\":{\"count\":0,\"examples\":[]},\
      \"origin\":{\"places\":{\"latents\":\"s3://bucket/run\"},\
      \"endpoints\":{\"latents\":\"http://host:9000\"},\"pairs\":{\"latents\":\"latent_*\"},\
      \"on_missing\":\"error\"},\"order_fingerprint\":\"367340b124d463a1e93861e907b31aee\",\
      \"content_fingerprint\":\"f2d34f780587e1f11325a5121a442619\"}a\x01\x00\x00\x00\x00\x00\x00\x00\x00\x0b\
      \x00\x00\x00\x00\x00\x00\x00\x01\x0b\x00\x00\x00\x00\x00\x00\x00\t\x00\x00\x00\x00\x00\x00\x00\x00\x0e\
      \x00\x00\x00\x00\x00\x00\x00\x01\x0e\x00\x00\x00\x00\x00\x00\x00\t\x00\x00\x00\x00\x00\x00\x00n\xb9\xb6\
      \"\xfa\xd6\x95\x1a",
];

#[test]
fn stored_manifests_stay_what_they_are() {
    let manifest = two(&["latent_a.pt"], &["condition_a.pt"], OnMissing::Error).expect("joins").manifest;
    let one = |value: &str| [("latents".to_owned(), value.to_owned())].into();
    let origin = Origin {
        places: one("s3://bucket/run"),
        endpoints: one("http://host:9000"),
        pairs: one("latent_*"),
        on_missing: OnMissing::Error,
    };
    for (manifest, golden) in [manifest.clone(), manifest.of(origin)].into_iter().zip(GOLDEN) {
        let bytes = store::encode(&manifest);
        assert!(bytes == golden, "{}", bytes.escape_ascii());
        assert_eq!(store::decode(&bytes).expect("a manifest"), manifest);
    }
}

#[test]
fn every_pinned_listing_has_a_file_of_its_own() {
    let dir = tempfile::tempdir().expect("dir");
    let manifest = |keys: &[&str], pattern| {
        join(&[field("x", pattern, &listing(keys))], OnMissing::Error, stem).expect("joins").manifest
    };
    let (one, two) = (manifest(&["a.pt"], "*"), manifest(&["a.pt", "b.pt"], "*"));
    // The same key, size and version behind another name.
    let renamed = join(
        &[field("x", "*_1", &[ObjectMeta { key: "a_1.pt".into(), ..object("a.pt") }].into_iter().collect())],
        OnMissing::Error,
        stem,
    );
    let renamed = renamed.expect("joins").manifest;
    assert_eq!(renamed.order_fingerprint(), one.order_fingerprint());
    assert_eq!(renamed.content_fingerprint(), one.content_fingerprint());
    let pin = |manifest| store::pin(dir.path(), manifest).expect("pins");
    let paths = [pin(&one), pin(&two), pin(&renamed)];
    for (path, manifest) in paths.iter().zip([&one, &two, &renamed]) {
        assert_eq!(store::load(path).expect("loads"), *manifest);
        assert_eq!(pin(manifest), *path);
    }
}

#[test]
#[allow(clippy::disallowed_methods)] // files are made old
fn a_manifest_that_nobody_wrote_for_a_month_is_removed_and_no_other_file() {
    let dir = tempfile::tempdir().expect("dir");
    let manifest = join(&[field("x", "*", &listing(&["a.pt"]))], OnMissing::Error, stem).expect("joins").manifest;
    let old = std::time::SystemTime::now() - std::time::Duration::from_hours(31 * 24);
    let aged = |path: &std::path::Path| {
        let file = std::fs::File::options().append(true).create(true).open(path).expect("opens");
        file.set_modified(old).expect("aged");
    };
    let forgotten = store::path_for(dir.path(), "forgotten");
    store::save(&forgotten, &manifest).expect("saves");
    let foreign = forgotten.with_file_name("notes.manifest");
    aged(&foreign);
    let (lock, foreign_lock) = (forgotten.with_extension("lock"), foreign.with_extension("lock"));
    [&lock, &foreign_lock].iter().for_each(|path| aged(path));
    let pinned = store::pin(dir.path(), &manifest).expect("pins");
    aged(&pinned);
    aged(&forgotten);
    assert_eq!(store::pin(dir.path(), &manifest).expect("pins again"), pinned);
    assert_eq!((pinned.exists(), forgotten.exists(), foreign.exists()), (true, false, true));
    assert_eq!((lock.exists(), foreign_lock.exists()), (false, true));
}

#[test]
fn a_million_samples_of_two_fields_take_under_200_mb() {
    let tag = |n: u64| Version::ETag(format!("\"{:032x}\"", u128::from(n) << 64 | 7));
    let make = |field: &'static str| -> Listing {
        let name = move |n: u64| format!("{field}_{:02}_{n:010}.pt.zst", n % 64);
        (0..1_000_000).map(|n| ObjectMeta { key: name(n), size: n, version: tag(n) }).collect()
    };
    let (latents, conditions) = (make("latent"), make("condition"));
    let fields = [field("latents", "latent_*", &latents), field("conditions", "condition_*", &conditions)];
    let manifest = join(&fields, OnMissing::Error, stem).expect("joins").manifest;
    assert_eq!(manifest.len(), 1_000_000);
    assert!(manifest.memory_bytes() < 110_000_000, "{} bytes", manifest.memory_bytes());
}

#[test]
fn a_turn_is_one_threads_at_a_time() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("x.manifest");
    let first = store::Turn::take(&path).expect("free");
    assert!(std::thread::scope(|scope| scope.spawn(|| store::Turn::take(&path).is_none()).join().expect("asked")));
    assert!(store::Turn::take(&dir.path().join("y.manifest")).is_some(), "another one is free");
    drop(first);
    assert!(store::Turn::take(&path).is_some());
}
