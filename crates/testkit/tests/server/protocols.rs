use bytes::Bytes;
use headwater_testkit::server::{DATASET, Server, TOKEN};

use crate::client::{ask, content, get, server};

/// Keys as datasets have them.
fn filled() -> Server {
    let server = server(&[]);
    for key in ["a/y & z.pt", "b/c/d.txt", "b/e.txt", "f.txt"] {
        server.put(key, Bytes::from(format!("content of {key}")));
    }
    server
}

#[test]
fn every_protocol_reads_wholes_and_ranges_of_the_same_object() {
    let server = filled();
    for path in [
        "/bucket/a/x.pt",
        "/storage/v1/b/bucket/o/a%2Fx.pt?alt=media",
        "/download/storage/v1/b/bucket/o/a%2Fx.pt",
        "/devstoreaccount1/bucket/a/x.pt",
        "/plain/a/x.pt",
    ] {
        let whole = get(&server, path);
        assert_eq!((whole.status, whole.header("content-length")), (200, Some("5000")), "{path}");
        assert!(whole.header("etag").is_some() && whole.body == content(), "{path}");
        let line = format!("GET {path}");
        let part = ask(&server, &[&line, "Range: bytes=4990-6000"], b"");
        assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 4990-4999/5000")), "{path}");
        assert_eq!(part.body, content()[4990..], "{path}");
        let beyond = ask(&server, &[&line, "Range: bytes=5000-"], b"");
        assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */5000")), "{path}");
        let head = ask(&server, &[&line.replace("GET", "HEAD")], b"");
        assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("5000"), 0), "{path}");
        let missing = get(&server, &path.replace("x.pt", "none"));
        assert_eq!(missing.status, 404, "{path}");
    }
}

#[test]
fn what_is_stored_over_one_protocol_is_read_over_another() {
    let server = filled();
    for (line, status) in [
        ("PUT /bucket/new/1", 200),
        ("POST /upload/storage/v1/b/bucket/o?uploadType=media&name=new%2F2", 200),
        ("PUT /devstoreaccount1/bucket/new/3", 201),
        ("PUT /plain/new/4", 201),
    ] {
        assert_eq!(ask(&server, &[line], line.as_bytes()).status, status, "{line}");
        let key = line.chars().last().expect("some");
        assert_eq!(get(&server, &format!("/plain/new/{key}")).text(), line);
    }
    for (line, status) in [
        ("DELETE /bucket/new/1", 204),
        ("DELETE /storage/v1/b/bucket/o/new%2F2", 204),
        ("DELETE /devstoreaccount1/bucket/new/3", 202),
        ("DELETE /plain/new/4", 204),
    ] {
        assert_eq!(ask(&server, &[line], b"").status, status, "{line}");
    }
    assert_eq!(get(&server, "/plain/new/").status, 404);
}

#[test]
fn s3_lists_folders_and_pages() {
    let server = filled();
    let text = get(&server, "/bucket?list-type=2&delimiter=/&max-keys=2").text();
    assert!(text.contains("<Prefix>a/</Prefix>") && text.contains("<Prefix>b/</Prefix>") && !text.contains("<Key>"));
    assert!(text.contains("<NextContinuationToken>b/</NextContinuationToken>"), "{text}");
    let text = get(&server, "/bucket?list-type=2&delimiter=/&continuation-token=b/").text();
    assert!(text.contains("<Key>f.txt</Key>") && !text.contains("Prefix"), "{text}");
    assert!(get(&server, "/bucket?prefix=a/y").text().contains("<Key>a/y &amp; z.pt</Key>"));
    assert!(get(&server, "/other?list-type=2").text().contains("<Code>NoSuchBucket</Code>"));
}

#[test]
fn gcs_lists_pages_of_the_fields_asked_for_and_keeps_generations() {
    let server = filled();
    let first =
        get(&server, "/storage/v1/b/bucket/o?maxResults=4&fields=items(name,size,generation),nextPageToken").json();
    assert_eq!(first["items"][0]["size"], "5000");
    assert_eq!(first["items"][0].as_object().expect("an object").len(), 3);
    let token = first["nextPageToken"].as_str().expect("a token").replace('=', "%3D");
    let second = get(&server, &format!("/storage/v1/b/bucket/o?pageToken={token}")).json();
    assert_eq!((second["items"][0]["name"].as_str(), second.get("nextPageToken")), (Some("f.txt"), None));
    assert_eq!(second["items"][0]["md5Hash"].as_str().map(str::len), Some(24));
    let generation = first["items"][0]["generation"].as_str().expect("text");
    let path = "/storage/v1/b/bucket/o/a%2Fx.pt?alt=media";
    let media = get(&server, &format!("{path}&ifGenerationMatch={generation}"));
    assert_eq!((media.status, media.header("x-goog-generation")), (200, Some(generation)));
    assert!(media.header("x-goog-hash").expect("a hash").starts_with("crc32c="));
    assert_eq!(get(&server, &format!("{path}&ifGenerationMatch=999")).status, 412);
    let missing = get(&server, &format!("{path}&generation=999"));
    assert_eq!((missing.status, &missing.json()["error"]["errors"][0]["reason"]), (404, &"notFound".into()));
    assert_eq!(get(&server, "/storage/v1/b/bucket/o/a%2Fx.pt").json()["size"], "5000");
}

#[test]
fn azure_lists_pages_and_names_its_errors() {
    let server = filled();
    let path = "/devstoreaccount1/bucket?restype=container&comp=list&prefix=a/&maxresults=1";
    let text = get(&server, path).text();
    assert!(text.contains("<Name>a/x.pt</Name>") && text.contains("<Content-Length>5000</Content-Length>"), "{text}");
    let marker = text.split("<NextMarker>").nth(1).and_then(|rest| rest.split('<').next()).expect("a marker");
    let text = get(&server, &format!("{path}&marker={}", marker.replace('=', "%3D"))).text();
    assert!(text.contains("<Name>a/y &amp; z.pt</Name>") && text.contains("<NextMarker />"), "{text}");
    let blob = "GET /devstoreaccount1/bucket/a/x.pt";
    assert_eq!(ask(&server, &[blob, "x-ms-range: bytes=0-9", "Range: bytes=0-99"], b"").body.len(), 10);
    assert_eq!(ask(&server, &[blob, "If-Match: \"0x0\""], b"").status, 412);
    let missing = ask(&server, &["HEAD /devstoreaccount1/bucket/none"], b"");
    assert_eq!(missing.header("x-ms-error-code"), Some("BlobNotFound"));
}

#[test]
fn plain_folders_are_pages_of_links_and_conditions_hold() {
    let server = filled();
    let root = get(&server, "/plain/").text();
    assert!(root.contains("<a href=\"a/\">a/</a>") && root.contains("<a href=\"f.txt\">f.txt</a>"), "{root}");
    assert!(get(&server, "/plain/a/").text().contains("<a href=\"y%20&%20z.pt\">y &amp; z.pt</a>"));
    let whole = get(&server, "/plain/f.txt");
    let (tag, time) = (whole.header("etag").expect("a tag"), whole.header("last-modified").expect("a time"));
    for (condition, status) in [
        (format!("If-Match: {tag}"), 200),
        ("If-Match: \"other\"".to_owned(), 412),
        (format!("If-Unmodified-Since: {time}"), 200),
        ("If-Unmodified-Since: Thu, 01 Jan 2026 00:00:00 GMT".to_owned(), 412),
    ] {
        assert_eq!(ask(&server, &["GET /plain/f.txt", &condition], b"").status, status, "{condition}");
    }
}

#[test]
fn the_hub_sends_large_files_to_another_host_that_refuses_tokens() {
    let server = filled();
    let path = format!("/datasets/{DATASET}/resolve/main/a/x.pt");
    let moved = get(&server, &path);
    assert_eq!((moved.status, moved.header("x-linked-size")), (302, Some("5000")));
    assert_eq!(moved.header("x-linked-etag").map(str::len), Some(66));
    let place = moved.header("location").expect("a place");
    let at = place.find("/cdn/").expect("on the other host");
    assert!(place.starts_with("http://localhost:"));
    assert_eq!(get(&server, &place[at..]).body, content());
    assert_eq!(get(&server, place[at..].split('?').next().expect("a path")).status, 403);
    let leaking = ask(&server, &[&format!("GET {}", &place[at..]), "Authorization: Bearer x"], b"");
    assert_eq!((leaking.status, server.tokens_leaked()), (400, 1));
    let small = get(&server, &path.replace("a/x.pt", "f.txt"));
    assert_eq!(
        (small.status, small.header("etag").map(str::len), small.text()),
        (200, Some(42), "content of f.txt".into())
    );
}

#[test]
fn the_hub_lists_folders_and_follows_links() {
    let server = filled();
    let root = format!("/api/datasets/{DATASET}/tree/main");
    let names = |path: &str| {
        let rows = get(&server, path).json();
        let rows = rows.as_array().expect("rows").clone();
        rows.iter().map(|row| row["path"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&root), ["a", "b", "f.txt"]);
    assert_eq!(names(&format!("{root}/b")), ["b/c", "b/e.txt"]);
    let all = ["a", "a/x.pt", "a/y & z.pt", "b", "b/c", "b/c/d.txt", "b/e.txt", "f.txt"];
    assert_eq!(names(&format!("{root}?recursive=true")), all);
    let (mut found, mut path) = (Vec::new(), format!("{root}?recursive=true&limit=2"));
    loop {
        found.extend(names(&path));
        let heard = get(&server, &path);
        let Some(link) = heard.header("link") else { break };
        assert!(link.starts_with(&format!("<{}/api/", server.endpoint())) && link.ends_with(">; rel=\"next\""));
        link[server.endpoint().len() + 1..].split('>').next().expect("a place").clone_into(&mut path);
    }
    assert_eq!(found, all);
}

#[test]
fn the_hub_keeps_commits_and_says_what_is_missing() {
    let server = filled();
    let described = || get(&server, &format!("/api/datasets/{DATASET}/revision/main")).json();
    let commit = described()["sha"].as_str().expect("text").to_owned();
    server.put("f.txt", Bytes::from_static(b"changed"));
    assert_ne!(described()["sha"], commit);
    let read = |revision: &str| get(&server, &format!("/datasets/{DATASET}/resolve/{revision}/f.txt")).text();
    assert_eq!((read("main"), read(&commit)), ("changed".to_owned(), "content of f.txt".to_owned()));
    for (path, status, code) in [
        ("/api/datasets/headwater/other/revision/main", 404, "RepoNotFound"),
        ("/api/datasets/headwater/bucket/revision/none", 404, "RevisionNotFound"),
        ("/datasets/headwater/bucket/resolve/main/none", 404, "EntryNotFound"),
        ("/api/datasets/private/bucket/revision/main", 401, "RepoNotFound"),
    ] {
        let heard = get(&server, path);
        assert_eq!((heard.status, heard.header("x-error-code")), (status, Some(code)), "{path}");
    }
    let bearer = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(ask(&server, &["GET /api/datasets/private/bucket", &bearer], b"").status, 200);
}
