//! What every source has to do.
//!
//! A source takes part through a [`Fixture`], which can put and remove objects behind its back.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use headwater::buffer::BufferPool;
use headwater::source::{ObjectBytes, ReadRequest, Source, Version, list_sorted};
use headwater::{ErrorKind, Result};

/// A source under test, and the other way to its objects.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The source, over an empty place.
    fn source(&self) -> Arc<dyn Source>;

    /// Creates or replaces an object.
    async fn put(&self, key: &str, bytes: Bytes);

    /// Removes an object.
    async fn remove(&self, key: &str);

    /// How many objects to list: more than a page of this source.
    fn objects_to_list(&self) -> usize {
        1500
    }
}

/// Keys that some layer between us and the bytes would like to read differently.
const ODD_KEYS: &[&str] = &[
    "odd/with space.pt",
    "odd/a+b.pt",
    "odd/100%.pt",
    "odd/%41.pt",
    "odd/a#b.pt",
    "odd/a?b=c&d.pt",
    "odd/日本語.pt",
    "odd/a.b.c..pt",
    "odd/~tilde'quote\"(paren)[bracket].pt",
];

/// Runs the whole suite.
pub async fn source(fixture: &dyn Fixture) {
    lists(fixture).await;
    reads_ranges(fixture).await;
    takes_odd_keys(fixture).await;
    refuses_what_is_no_key(fixture).await;
    names_what_is_missing(fixture).await;
    notices_replacement(fixture).await;
    reads_concurrently(fixture).await;
}

fn pool() -> BufferPool {
    BufferPool::new(1 << 20)
}

async fn read(source: &dyn Source, request: &ReadRequest) -> Result<ObjectBytes> {
    let read = source.read(request, &pool()).await;
    // A source that also reads without a runtime must give the same.
    if let Some(blocking) = source.read_blocking(request, &pool()) {
        match (&read, &blocking) {
            (Ok(a), Ok(b)) => assert_eq!((&a.bytes, &a.meta), (&b.bytes, &b.meta)),
            (Err(a), Err(b)) => assert_eq!(a.kind(), b.kind()),
            (a, b) => panic!("read and read_blocking disagree: {a:?}, {b:?}"),
        }
    }
    read
}

async fn keys(source: &dyn Source, prefix: &str, suffix: &str) -> Vec<String> {
    let listed = list_sorted(source, prefix, |key| key.ends_with(suffix)).await.expect("lists");
    listed.into_iter().map(|object| object.key).collect()
}

async fn lists(fixture: &dyn Fixture) {
    let source = fixture.source();
    assert!(keys(source.as_ref(), "", "").await.is_empty(), "the fixture starts empty");
    let mut expected: Vec<String> =
        (0..fixture.objects_to_list()).map(|n| format!("many/{:02}/{n}.pt", n % 7)).collect();
    expected.extend(["a.pt", "b/a.pt", "b/a.txt", "bb/a.pt", "B.pt"].map(str::to_owned));
    for chunk in expected.chunks(64) {
        join_all(chunk.iter().map(|key| fixture.put(key, Bytes::from(key.clone())))).await;
    }
    expected.sort_unstable();
    assert_eq!(keys(source.as_ref(), "", "").await, expected, "everything, recursively, sorted by bytes");
    assert_eq!(keys(source.as_ref(), "b", "").await, ["b/a.pt", "b/a.txt"], "a prefix ends at a folder");
    assert_eq!(keys(source.as_ref(), "b/", ".pt").await, ["b/a.pt"], "a slash changes nothing; suffixes filter");
    let listed = list_sorted(source.as_ref(), "", |key| key == "bb/a.pt").await.expect("lists").remove(0);
    assert_eq!(listed.size, 7);
    assert_eq!(source.head("bb/a.pt").await.expect("there"), listed, "head says what the listing says");
    for chunk in expected.chunks(64) {
        join_all(chunk.iter().map(|key| fixture.remove(key))).await;
    }
}

async fn reads_ranges(fixture: &dyn Fixture) {
    let source = fixture.source();
    let data: Bytes = (0..200_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>().into();
    let len = data.len() as u64;
    fixture.put("data.pt", data.clone()).await;
    fixture.put("empty.pt", Bytes::new()).await;
    let whole = read(source.as_ref(), &ReadRequest::whole("data.pt")).await.expect("whole");
    assert_eq!((whole.bytes, whole.meta.size), (data.clone(), len));
    let empty = read(source.as_ref(), &ReadRequest::whole("empty.pt")).await.expect("empty");
    assert_eq!((empty.bytes.len(), empty.meta.size), (0, 0));
    for range in [0..10, 1000..100_000, len - 10..len, 0..len, 5..5, len..len] {
        let request = ReadRequest { range: Some(range.clone()), ..ReadRequest::whole("data.pt") };
        let part = read(source.as_ref(), &request).await.expect("range");
        assert_eq!(part.bytes, data.slice(range.start as usize..range.end as usize), "{range:?}");
        assert_eq!(part.meta.size, len, "the size is the whole object's, for {range:?}");
    }
    for range in [len - 1..len + 1, len..len + 1, len + 5..len + 9] {
        let request = ReadRequest { range: Some(range.clone()), ..ReadRequest::whole("data.pt") };
        let error = read(source.as_ref(), &request).await.expect_err("beyond the end");
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{range:?}: {}", error.report());
    }
    fixture.remove("data.pt").await;
    fixture.remove("empty.pt").await;
}

async fn takes_odd_keys(fixture: &dyn Fixture) {
    let source = fixture.source();
    for key in ODD_KEYS {
        fixture.put(key, Bytes::from(*key)).await;
    }
    let mut expected = ODD_KEYS.to_vec();
    expected.sort_unstable();
    assert_eq!(keys(source.as_ref(), "odd", "").await, expected);
    for key in ODD_KEYS {
        let object = read(source.as_ref(), &ReadRequest::whole(*key)).await.expect(key);
        assert_eq!((object.bytes, object.meta.key), (Bytes::from(*key), (*key).to_owned()));
        fixture.remove(key).await;
    }
}

async fn refuses_what_is_no_key(fixture: &dyn Fixture) {
    let source = fixture.source();
    for key in ["", "/", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a\0b"] {
        let error = read(source.as_ref(), &ReadRequest::whole(key)).await.expect_err(key);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{key:?}: {}", error.report());
        assert_eq!(source.head(key).await.expect_err(key).kind(), ErrorKind::Invalid, "{key:?}");
    }
}

async fn names_what_is_missing(fixture: &dyn Fixture) {
    let source = fixture.source();
    let uri = source.uri_of("not/there.pt");
    for error in [
        read(source.as_ref(), &ReadRequest::whole("not/there.pt")).await.expect_err("missing"),
        source.head("not/there.pt").await.expect_err("missing"),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
        assert!(error.report().contains(&uri), "{}", error.report());
    }
}

async fn notices_replacement(fixture: &dyn Fixture) {
    let source = fixture.source();
    fixture.put("a.pt", Bytes::from_static(b"first")).await;
    let first = source.head("a.pt").await.expect("there").version;
    assert_ne!(first, Version::Unknown);
    let expecting = |version: &Version| ReadRequest { version: version.clone(), ..ReadRequest::whole("a.pt") };
    assert_eq!(read(source.as_ref(), &expecting(&first)).await.expect("unchanged").bytes, "first");
    fixture.put("a.pt", Bytes::from_static(b"other")).await;
    let error = read(source.as_ref(), &expecting(&first)).await.expect_err("replaced");
    assert_eq!(error.kind(), ErrorKind::Changed, "{}", error.report());
    assert!(error.report().contains(&source.uri_of("a.pt")), "{}", error.report());
    let now = read(source.as_ref(), &ReadRequest::whole("a.pt")).await.expect("any version");
    assert_ne!(now.meta.version, first);
    assert_eq!(read(source.as_ref(), &expecting(&now.meta.version)).await.expect("the new one").bytes, "other");
    fixture.remove("a.pt").await;
}

async fn reads_concurrently(fixture: &dyn Fixture) {
    let source = fixture.source();
    let content = |n: u8| Bytes::from(vec![n; 10_000 + usize::from(n)]);
    for n in 0..16 {
        fixture.put(&format!("{n}.pt"), content(n)).await;
    }
    let buffers = pool();
    let requests: Vec<_> = (0..64_u8).map(|n| ReadRequest::whole(format!("{}.pt", n % 16))).collect();
    let reads = join_all(requests.iter().map(|request| source.read(request, &buffers))).await;
    for (n, object) in (0..64_u8).zip(reads) {
        assert_eq!(object.expect("read").bytes, content(n % 16));
    }
    for n in 0..16 {
        fixture.remove(&format!("{n}.pt")).await;
    }
}
