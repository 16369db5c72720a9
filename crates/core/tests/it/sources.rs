use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use headwater::buffer::BufferPool;
use headwater::engine::{Engine, uninterrupted};
use headwater::fetch::{Policies, with_policies};
use headwater::source::{self, Listed, Local, Memory, ObjectBytes, ObjectMeta, ReadRequest, Source, SourceSpec};
use headwater::{Error, ErrorKind};
use headwater_testkit::conformance::{self, Fixture};
use headwater_testkit::server::{BUCKET, Class, DATASET, Server, Speed, TOKEN};

use crate::places::{OnServer, Writer};

fn block_on<F: Future<Output: Send + 'static> + Send + 'static>(future: F) -> F::Output {
    Engine::current().expect("engine").block_on("the test", future, uninterrupted()).expect("no panic")
}

struct OnDisk {
    root: PathBuf,
}

#[async_trait]
impl Fixture for OnDisk {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(Local::open(&self.root).expect("opens"))
    }

    async fn put(&self, key: &str, bytes: Bytes) {
        let path = self.root.join(key);
        fs::create_dir_all(path.parent().expect("has one")).expect("folder");
        // A new file, as tools that replace files do: its time of change alone might be the same within a tick.
        let _ = fs::remove_file(&path);
        std::thread::sleep(std::time::Duration::from_millis(if bytes == "other" { 20 } else { 0 }));
        fs::write(path, bytes).expect("written");
    }

    async fn remove(&self, key: &str) {
        fs::remove_file(self.root.join(key)).expect("removed");
    }
}

struct InMemory(Arc<Memory>);

#[async_trait]
impl Fixture for InMemory {
    fn source(&self) -> Arc<dyn Source> {
        self.0.clone()
    }

    async fn put(&self, key: &str, bytes: Bytes) {
        self.0.put(key, bytes);
    }

    async fn remove(&self, key: &str) {
        assert!(self.0.remove(key));
    }

    fn objects_to_list(&self) -> usize {
        50
    }
}

/// The description of a server that `tests/servers/run.py` started, or `None` where none is needed.
fn described(variable: &str) -> Option<serde_json::Value> {
    let Ok(text) = env::var(variable) else {
        assert!(env::var("CI").as_deref() != Ok("true"), "no server: {variable} is not set");
        return None;
    };
    Some(serde_json::from_str(&text).expect("JSON"))
}

fn server() -> Option<serde_json::Value> {
    described("HEADWATER_TEST_S3")
}

/// A URI with options out of a server's description: option name, name there.
fn spec_of(server: &serde_json::Value, uri: &str, options: &[(&str, &str)]) -> SourceSpec {
    let options = options.iter().map(|(name, there)| (*name, server[*there].as_str().expect("text")));
    SourceSpec { uri: uri.to_owned(), options: options.collect() }
}

fn spec(server: &serde_json::Value, place: &str, change: &[(&str, &str)]) -> SourceSpec {
    let mut spec = SourceSpec::from(place);
    for name in ["endpoint", "region", "access_key_id", "secret_access_key"] {
        spec.options.set(name, server[name].as_str().expect("text"));
    }
    for (name, value) in change {
        spec.options.set(name, *value);
    }
    spec
}

#[test]
fn a_local_directory_conforms() {
    let dir = tempfile::tempdir().expect("directory");
    let fixture = OnDisk { root: dir.path().to_owned() };
    block_on(async move { conformance::source(&fixture).await });
}

#[test]
fn memory_conforms() {
    let fixture = InMemory(Arc::new(Memory::new("test").with_page_objects(7)));
    block_on(async move { conformance::source(&fixture).await });
}

/// The suite against a server and the options to reach it.
fn s3_conforms_on(server: &serde_json::Value) {
    let spec = spec(server, &format!("s3://{}/{}/", server["bucket"].as_str().expect("text"), folder()), &[]);
    conforms(spec, Writer::s3(server, &folder()));
}

#[test]
fn s3_conforms() {
    if let Some(server) = server() {
        s3_conforms_on(&server);
    }
}

fn conforms(spec: SourceSpec, writer: Writer) {
    block_on(async move {
        let source = source::open(&spec).await.expect("opens");
        conformance::source(&OnServer { source, writer }).await;
    });
}

fn folder() -> String {
    format!("conformance-{}", std::process::id())
}

#[test]
fn azure_conforms() {
    let Some(server) = described("HEADWATER_TEST_AZURE") else { return };
    let uri = format!("az://{}/{}", server["container"].as_str().expect("text"), folder());
    let options = [("endpoint", "endpoint"), ("account", "account"), ("access_key", "key")];
    conforms(spec_of(&server, &uri, &options), Writer::azure(&server, &folder()));
}

/// Its JSON API: the one that tells generations and checksums in listings, and that a server other than Google's speaks whole.
#[test]
fn gcs_conforms() {
    let Some(server) = described("HEADWATER_TEST_GCS") else { return };
    let uri = format!("gs://{}/{}", server["bucket"].as_str().expect("text"), folder());
    let mut spec = spec_of(&server, &uri, &[("endpoint", "endpoint")]);
    spec.options.set("anonymous", "true");
    conforms(spec, Writer::gcs(&server, &folder()));
}

/// nginx over a directory, whose entity tags are of size and second.
struct BehindNginx {
    source: Arc<dyn Source>,
    disk: OnDisk,
}

#[async_trait]
impl Fixture for BehindNginx {
    fn source(&self) -> Arc<dyn Source> {
        self.source.clone()
    }

    async fn put(&self, key: &str, bytes: Bytes) {
        if bytes == "other" {
            tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        }
        self.disk.put(key, bytes).await;
    }

    async fn remove(&self, key: &str) {
        self.disk.remove(key).await;
    }
}

#[test]
fn http_conforms() {
    let Some(server) = described("HEADWATER_TEST_HTTP") else { return };
    for (place, options) in [("url", &[][..]), ("private", &[("user", "user"), ("password", "password")])] {
        let root = PathBuf::from(server["folder"].as_str().expect("text")).join(format!("{}-{place}", folder()));
        fs::create_dir_all(&root).expect("folder");
        let uri = format!("{}/{}-{place}", server[place].as_str().expect("text"), folder());
        let spec = spec_of(&server, &uri, options);
        block_on(async move {
            let source = source::open(&spec).await.expect("opens");
            // A server closes a connection when it likes, at times under a request: that is tried again in what users have.
            let source = with_policies(vec![source], &Policies::default(), &Arc::default());
            conformance::source(&BehindNginx { source, disk: OnDisk { root } }).await;
        });
    }
}

/// Where the objects of a fault server are, as each kind of remote sees them.
pub(crate) fn specs_of(server: &Server, folder: &str) -> Vec<(&'static str, SourceSpec)> {
    let made = |kind, uri: String, options: &[(&str, &str)]| {
        (kind, SourceSpec { uri, options: options.iter().copied().collect() })
    };
    let endpoint = server.endpoint();
    let keys = [("endpoint", &*endpoint), ("access_key_id", "a"), ("secret_access_key", "b"), ("region", "test")];
    vec![
        made("S3", format!("s3://{BUCKET}/{folder}"), &keys),
        made("GCS", format!("gs://{BUCKET}/{folder}"), &[("endpoint", &server.gcs()), ("token", "t")]),
        made("Azure", format!("az://{BUCKET}/{folder}"), &[("endpoint", &server.azure()), ("token", "t")]),
        made("HF", format!("hf://datasets/{DATASET}/{folder}"), &[("endpoint", &server.hub()), ("token", TOKEN)]),
        made("HTTP", format!("{}/{folder}", server.http().trim_end_matches('/')), &[]),
    ]
}

/// Opens a source anew for every request, as the Hub's commit is fixed when a source is opened.
#[derive(Debug)]
struct Reopening {
    spec: SourceSpec,
    uri: String,
}

#[async_trait]
impl Source for Reopening {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn uri_of(&self, key: &str) -> String {
        key.to_owned()
    }

    async fn page(&self, prefix: &str, token: Option<&str>) -> headwater::Result<Listed> {
        source::open(&self.spec).await?.page(prefix, token).await
    }

    async fn head(&self, key: &str) -> headwater::Result<ObjectMeta> {
        source::open(&self.spec).await?.head(key).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> headwater::Result<ObjectBytes> {
        source::open(&self.spec).await?.read(request, buffers).await
    }
}

/// The fault server's objects, put straight into its map.
struct OnFaultServer {
    server: Arc<Server>,
    source: Arc<dyn Source>,
    folder: &'static str,
}

#[async_trait]
impl Fixture for OnFaultServer {
    fn source(&self) -> Arc<dyn Source> {
        self.source.clone()
    }

    async fn put(&self, key: &str, bytes: Bytes) {
        self.server.put(&format!("{}{key}", self.folder), bytes);
    }

    async fn remove(&self, key: &str) {
        assert!(self.server.remove(&format!("{}{key}", self.folder)));
    }
}

/// So what is measured and tried against the server in memory holds for real ones.
#[test]
fn every_kind_of_remote_conforms_against_the_fault_server() {
    for number in 0..5 {
        let server =
            Arc::new(Server::start(Speed { total_rate: Some(500_000_000), ..Speed::default() }).expect("starts"));
        // There are no empty folders of the Hub nor of the web, but empty roots.
        let folder = if number >= 3 { "" } else { "x/" };
        let (kind, spec) = specs_of(&server, folder).swap_remove(number);
        block_on(async move {
            let source: Arc<dyn Source> = if kind == "HF" {
                let uri = spec.uri.clone();
                Arc::new(Reopening { spec, uri })
            } else {
                source::open(&spec).await.unwrap_or_else(|error| panic!("{kind}: {}", error.report()))
            };
            conformance::source(&OnFaultServer { server, source, folder }).await;
        });
    }
}

#[test]
fn folders_are_listed_side_by_side_unless_there_are_very_many() {
    for (folders, pages) in [(3, 1 + 3 * 2), (100, 1 + 3 + 20)] {
        let server = Server::start(Speed::default()).expect("starts");
        server.set_page_objects(100);
        let objects = 300 / folders;
        for n in 0..folders * objects {
            server.put(&format!("x/{:03}/{n}.pt", n % folders), Bytes::from_static(b"x"));
        }
        let all = u64::try_from(folders * objects).expect("few");
        for (kind, spec) in specs_of(&server, "x").into_iter().filter(|(kind, _)| *kind != "HTTP") {
            let source = block_on(async move { source::open(&spec).await }).expect(kind);
            let before = server.requests_of(Class::List);
            let listed = block_on(async move { source::list_sorted(source.as_ref(), "", |_| true).await }).expect(kind);
            assert_eq!(listed.len() as u64, all, "{kind}, {folders}");
            assert!(listed.windows(2).all(|pair| pair[0].key < pair[1].key), "{kind}: nothing twice");
            let asked = server.requests_of(Class::List) - before;
            assert!(asked <= pages + 1, "{kind}, {folders} folders: {asked} pages");
        }
    }
}

#[test]
fn a_long_listing_is_divided_and_nothing_is_missed_or_told_twice() {
    let names: [fn(usize) -> String; 5] = [
        |n| format!("key-{n:07}.pt"),
        |n| format!("{n}.pt"),
        |n| format!("{:016x}.pt", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        |n| format!("a-{}-{n}-b.pt", ["x", "yy", "zzz"][n % 3]),
        |n| format!("{}{n:03}", "é".repeat(n % 4)),
    ];
    for name in names {
        let server = Server::start(Speed::default()).expect("starts");
        server.set_page_objects(50);
        let mut expected: Vec<_> = (0..3000).map(name).collect();
        expected.iter().for_each(|key| server.put(&format!("x/{key}"), Bytes::from_static(b"x")));
        expected.sort_unstable();
        let spec = specs_of(&server, "x").swap_remove(0).1;
        let listed = block_on(async move {
            let source = source::open(&spec).await.expect("opens");
            source::list_sorted(source.as_ref(), "", |_| true).await.expect("lists")
        });
        let listed: Vec<_> = listed.into_iter().map(|object| object.key).collect();
        assert!(listed == expected, "{} of {}, as {}", listed.len(), expected.len(), expected[0]);
        assert!(server.requests_of(Class::List) < 60 + 100 + 60, "{}", server.requests_of(Class::List));
    }
}

#[test]
fn an_s3_key_that_cannot_be_named_hides_no_other_object() {
    let server = Server::start(Speed::default()).expect("starts");
    for key in ["x/a.pt", "x/b//c.pt", "x/../d.pt", "x/e.pt"] {
        server.put(key, Bytes::from_static(b"bytes"));
    }
    let mut spec = SourceSpec::from(&*format!("s3://{BUCKET}/x"));
    for (name, value) in [("endpoint", &*server.endpoint()), ("access_key_id", "a"), ("secret_access_key", "b")] {
        spec.options.set(name, value);
    }
    let keys = block_on(async move {
        let source = source::open(&spec).await.expect("opens");
        source::list_sorted(source.as_ref(), "", |_| true).await.expect("lists")
    });
    assert_eq!(keys.into_iter().map(|object| object.key).collect::<Vec<_>>(), ["a.pt", "e.pt"]);
}

#[test]
fn s3_says_what_is_wrong_and_never_a_secret() {
    let Some(server) = server() else { return };
    let bucket = server["bucket"].as_str().expect("text");
    let here = format!("s3://{bucket}/x");
    let wrong = "wrongwrongwrongwrong";
    for (place, change, kind, words) in [
        ("s3://no-such-bucket-here/x", &[][..], ErrorKind::NotFound, "there is no bucket `no-such-bucket-here`"),
        (&*here, &[("secret_access_key", wrong)][..], ErrorKind::Denied, "SignatureDoesNotMatch"),
        (&*here, &[("access_key_id", wrong)], ErrorKind::Denied, "InvalidAccessKeyId"),
        (&*here, &[("anonymous", "true")], ErrorKind::Denied, "credentials used: none (anonymous)"),
        (&*here, &[("endpoint", "http://127.0.0.1:1")], ErrorKind::Unavailable, "cannot connect at http://127.0.0.1:1"),
        (
            &*here,
            &[("endpoint", "http://user:wrongwrongwrongwrong@127.0.0.1:1")],
            ErrorKind::Unavailable,
            "cannot connect",
        ),
    ] {
        let spec = spec(&server, place, change);
        let shown = format!("{spec:?}");
        let error = block_on(async move { source::open(&spec).await }).expect_err(words);
        let text = format!("{error} {error:?} {} {shown}", error.report());
        assert_eq!(error.kind(), kind, "{text}");
        assert!(text.contains(words), "{text}");
        assert!(text.contains(place), "{text}");
        assert!(!text.contains(server["secret_access_key"].as_str().expect("text")), "{text}");
        assert!(!text.contains(wrong) || change[0].0 == "access_key_id" && !shown.contains(wrong), "{text}");
    }
}

fn refused(uri: &str, options: &[(&str, &str)]) -> Error {
    let spec = SourceSpec { uri: uri.to_owned(), options: options.iter().copied().collect() };
    block_on(async move { source::open(&spec).await }).expect_err("refused")
}

#[test]
fn wrong_uris_say_what_was_expected() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("x.pt");
    fs::write(&file, "").expect("written");
    let file = file.to_str().expect("UTF-8");
    for (uri, kind, words) in [
        ("/nowhere/at/all", ErrorKind::NotFound, "cannot open directory `/nowhere/at/all`"),
        (file, ErrorKind::Invalid, "it is a file; give the directory"),
        ("", ErrorKind::Invalid, "it is empty; expected a path"),
        ("  ", ErrorKind::Invalid, "it is empty"),
        ("gopher://host/x", ErrorKind::Invalid, "unknown scheme `gopher:`"),
        ("s3:bucket", ErrorKind::Invalid, "expected `s3://…`; write ./s3:bucket for a local path"),
        ("s3://", ErrorKind::Invalid, "expected s3://bucket/prefix"),
        ("s3:///x", ErrorKind::Invalid, "expected s3://bucket/prefix"),
        ("s3://bucket/x?y", ErrorKind::Invalid, "`?` does not belong"),
        ("file://host/x", ErrorKind::Invalid, "expected file:///path"),
        ("file:///x#y", ErrorKind::Invalid, "expected file:///path"),
    ] {
        let error = refused(uri, &[]);
        assert_eq!(error.kind(), kind, "{}", error.report());
        assert!(error.report().contains(words), "{uri}: {}", error.report());
    }
}

#[test]
fn unknown_options_are_named_and_their_values_are_not() {
    for (uri, option, words) in [
        ("s3://bucket/x", "key_secret", "knows endpoint, region"),
        ("/tmp", "secret_access_key", "a local directory has no options"),
    ] {
        let error = refused(uri, &[(option, "hunter2")]);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.report().contains(option) && error.report().contains(words), "{}", error.report());
        assert!(!error.report().contains("hunter2"));
    }
    let error = refused("ftp://user:hunter2@host/x", &[]);
    assert!(error.report().contains("ftp://***@host/x"), "{}", error.report());
}

#[test]
fn file_uris_are_percent_decoded() {
    let dir = tempfile::tempdir().expect("directory");
    fs::create_dir(dir.path().join("a b")).expect("folder");
    let uri = format!("file://{}/a%20b", dir.path().display());
    let source = block_on(async move { source::open(&SourceSpec::from(&*uri)).await }).expect("opens");
    assert!(source.uri().ends_with("/a b"), "{}", source.uri());
}

#[test]
fn links_are_followed_but_not_for_ever() {
    let dir = tempfile::tempdir().expect("directory");
    fs::create_dir(dir.path().join("a")).expect("folder");
    fs::write(dir.path().join("a/x.pt"), "x").expect("written");
    std::os::unix::fs::symlink(dir.path(), dir.path().join("a/loop")).expect("link");
    std::os::unix::fs::symlink("a", dir.path().join("b")).expect("link");
    std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).expect("link");
    let source = Local::open(dir.path()).expect("opens");
    let keys = block_on(async move { source::list_sorted(&source, "", |_| true).await }).expect("lists");
    let keys: Vec<_> = keys.into_iter().map(|object| object.key).collect();
    assert_eq!(keys, ["a/x.pt", "b/x.pt"]);
}
