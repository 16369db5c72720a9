use std::io::ErrorKind;
use std::time::{Duration, Instant};

use headwater_testkit::server::{Fault, On, Rule};

use crate::client::{ask, content, get, read, read_range, server};

#[test]
fn an_error_comes_in_the_protocols_shape_with_its_time_to_wait() {
    let server = server(&["status=503,retry-after=7"]);
    for (path, words) in [
        ("/bucket/a/x.pt", "<Code>SlowDown</Code>"),
        ("/storage/v1/b/bucket/o/a%2Fx.pt?alt=media", "\"reason\":\"backendError\""),
        ("/devstoreaccount1/bucket/a/x.pt", "<Code>ServerBusy</Code>"),
        ("/datasets/headwater/bucket/resolve/main/a/x.pt", "\"error\""),
        ("/plain/a/x.pt", "<h1>503 Service Unavailable</h1>"),
    ] {
        let heard = get(&server, path);
        assert_eq!((heard.status, heard.header("retry-after")), (503, Some("7")), "{path}");
        assert!(heard.text().contains(words), "{path}: {}", heard.text());
    }
    assert_eq!(get(&server, "/bucket?list-type=2").status, 200);
    assert_eq!(server.faults_done(), 5);
}

#[test]
fn a_reset_before_the_answer_leaves_nothing() {
    let heard = read(&server(&["reset-before"]));
    assert_eq!((heard.status, heard.broken), (0, Some(ErrorKind::ConnectionReset)));
}

#[test]
fn a_reset_in_the_middle_comes_after_half_of_the_body() {
    let heard = read(&server(&["reset-mid"]));
    assert_eq!((heard.status, heard.header("content-length")), (200, Some("5000")));
    assert_eq!(heard.broken, Some(ErrorKind::ConnectionReset));
    assert_eq!(heard.body, content()[..2500]);
}

#[test]
fn a_truncated_body_ends_before_its_length() {
    let heard = read(&server(&["truncate"]));
    assert_eq!((heard.status, heard.header("content-length"), heard.broken), (200, Some("5000"), None));
    assert_eq!(heard.body, content()[..2500]);
}

#[test]
fn a_stall_in_the_middle_shows_half_of_the_body() {
    let heard = read(&server(&["stall-mid"]));
    assert_eq!((heard.status, heard.broken), (200, Some(ErrorKind::WouldBlock)));
    assert_eq!(heard.body, content()[..2500]);
}

#[test]
fn a_short_stall_in_the_middle_ends_well() {
    assert_eq!(read(&server(&["stall-mid=10ms"])).body, content());
}

#[test]
fn a_stall_shows_nothing_before_its_time() {
    let stalled = server(&["stall=1h"]);
    assert_eq!((read(&stalled).status, read(&stalled).broken), (0, Some(ErrorKind::WouldBlock)));
    assert_eq!(read(&server(&["stall=10ms"])).body, content());
}

#[test]
fn a_short_length_is_told_throughout() {
    let server = server(&["short-length"]);
    let heard = read(&server);
    assert_eq!((heard.status, heard.header("content-length"), heard.broken), (200, Some("4990"), None));
    assert_eq!(heard.body, content()[..4990]);
    assert_eq!(read_range(&server).header("content-range"), Some("bytes 10-19/4990"));
}

#[test]
fn a_long_body_has_no_length_and_too_much() {
    let heard = read(&server(&["long"]));
    assert_eq!((heard.status, heard.header("content-length")), (200, None));
    assert_eq!(heard.header("transfer-encoding"), Some("chunked"));
    assert!(heard.body.windows(10).any(|ten| ten == b"++++++++++"));
}

#[test]
fn the_whole_may_come_for_a_range() {
    let server = server(&["whole-for-range"]);
    let heard = read_range(&server);
    assert_eq!((heard.status, heard.body.len()), (200, 5000));
    read(&server);
    assert_eq!(server.faults_done(), 1, "who asks for the whole gets what was asked for");
}

#[test]
fn a_range_may_say_to_be_another() {
    let heard = read_range(&server(&["wrong-range"]));
    assert_eq!((heard.status, heard.header("content-range")), (206, Some("bytes 11-20/5000")));
    assert_eq!(heard.body, content()[10..20]);
}

#[test]
fn a_swap_breaks_the_old_body_off_and_leaves_a_new_version() {
    let server = server(&["swap,times=1"]);
    let (old, new) = (read(&server), read(&server));
    assert_eq!((old.broken, &old.body[..]), (Some(ErrorKind::ConnectionReset), &content()[..2500]));
    assert_eq!((new.status, new.body.len()), (200, 5000));
    assert_ne!(new.body, content());
    assert_ne!(old.header("etag"), new.header("etag"));
}

#[test]
fn a_swap_before_answers_another_version_than_was_listed() {
    let server = server(&["swap-before,times=1"]);
    let listed = get(&server, "/bucket?list-type=2").text();
    let heard = read(&server);
    assert_eq!((heard.status, heard.body.len()), (200, 5000));
    assert!(!listed.contains(heard.header("etag").expect("a tag").trim_matches('"')));
    let conditional = ask(&server, &["GET /bucket/a/x.pt", "If-Match: \"0\""], b"");
    assert_eq!(conditional.status, 412);
}

#[test]
fn credentials_without_the_expected_words_are_refused_as_expired() {
    let server = server(&[]);
    server.expect(vec!["KEY1".to_owned(), "session1".to_owned()]);
    let key = "Authorization: AWS4-HMAC-SHA256 Credential=KEY1/x";
    let read = |headers: &[&str]| ask(&server, &[&["GET /bucket/a/x.pt"], headers].concat(), b"").status;
    assert_eq!(read(&[]), 400);
    assert_eq!(read(&[key]), 400);
    assert_eq!(read(&[key, "x-amz-security-token: session1"]), 200);
    assert_eq!(server.faults_done(), 0);
    server.expect(Vec::new());
    assert_eq!(read(&[]), 200);
}

#[test]
fn expired_and_denied_are_told_as_each_protocol_tells_them() {
    let expired = server(&["expired"]);
    let denied = server(&["denied"]);
    for (path, first, words, second) in [
        ("/bucket/a/x.pt", 400, "<Code>ExpiredToken</Code>", 403),
        ("/storage/v1/b/bucket/o/a%2Fx.pt?alt=media", 401, "authError", 403),
        ("/devstoreaccount1/bucket/a/x.pt", 403, "AuthenticationFailed", 403),
        ("/datasets/headwater/bucket/resolve/main/a/x.pt", 401, "error", 403),
        ("/plain/a/x.pt", 401, "401", 403),
    ] {
        let heard = get(&expired, path);
        assert_eq!((heard.status, get(&denied, path).status), (first, second), "{path}");
        assert!(heard.text().contains(words), "{path}: {}", heard.text());
    }
}

#[test]
fn a_redirect_may_lead_nowhere() {
    let heard = read(&server(&["redirect-loop"]));
    assert_eq!((heard.status, heard.header("location")), (302, Some("/bucket/a/x.pt")));
}

#[test]
fn a_login_page_succeeds() {
    let heard = read(&server(&["login-page"]));
    assert_eq!((heard.status, heard.header("content-type")), (200, Some("text/html")));
}

#[test]
fn an_error_page_is_long() {
    let heard = read(&server(&["error-page"]));
    assert_eq!((heard.status, heard.header("content-type")), (500, Some("text/html")));
    assert!(heard.body.len() > 100_000);
}

#[test]
fn what_was_cut_says_to_be_whole() {
    let cut = server(&["cut", "cut,on=list"]);
    let (object, listing) = (read(&cut), get(&cut, "/bucket?list-type=2"));
    assert_eq!((object.status, object.header("content-length"), object.broken), (200, Some("2500"), None));
    assert_eq!(object.body, content()[..2500]);
    let whole = get(&server(&[]), "/bucket?list-type=2");
    assert_eq!((listing.status, listing.body.len(), listing.broken), (200, whole.body.len() / 2, None));
    assert!(whole.text().starts_with(&listing.text()));
}

#[test]
fn a_flipped_bit_is_one_bit_under_the_same_version_and_checksum() {
    let server = server(&["flip,times=1"]);
    let lines = ["GET /bucket/a/x.pt", "x-amz-checksum-mode: ENABLED"];
    let (wrong, right) = (ask(&server, &lines, b""), ask(&server, &lines, b""));
    let bits = wrong.body.iter().zip(&right.body).map(|(one, other)| (one ^ other).count_ones());
    assert_eq!((bits.sum::<u32>(), &right.body[..]), (1, &content()[..]));
    assert!(right.head.contains("x-amz-checksum-crc32c: "));
    for name in ["etag", "x-amz-checksum-crc32c"] {
        assert_eq!(Some(wrong.header(name)), Some(right.header(name)));
    }
}

#[test]
fn what_drips_comes_whole_in_the_end() {
    let began = Instant::now();
    let heard = read_range(&server(&["drip=5ms"]));
    assert_eq!((heard.status, &heard.body[..]), (206, &content()[10..20]));
    let whole = Duration::from_millis(5 * heard.body.len() as u64);
    assert!(began.elapsed() >= whole, "{:?} for {} bytes", began.elapsed(), heard.body.len());
}

#[test]
fn words_are_rewritten_in_headers_and_body() {
    let heard = get(&server(&["rewrite=a/x.pt=>b/y.pt,on=list"]), "/bucket?list-type=2");
    assert!(heard.text().contains("<Key>b/y.pt</Key>") && !heard.text().contains("a/x.pt"), "{}", heard.text());
    let heard = read(&server(&["rewrite=octet-stream=>nonsense"]));
    assert_eq!(heard.header("content-type"), Some("application/nonsense"));
}

#[test]
fn a_missing_object_was_listed() {
    let server = server(&["missing"]);
    assert_eq!(read(&server).status, 404);
    assert!(get(&server, "/bucket?list-type=2").text().contains("<Key>a/x.pt</Key>"));
}

#[test]
fn rules_narrow_down_by_kind_key_and_number() {
    let server = server(&["status=500,on=list,times=1", "status=501,key=other", "status=502,on=head"]);
    assert_eq!(read(&server).status, 200);
    assert_eq!(get(&server, "/bucket/other").status, 501);
    assert_eq!(ask(&server, &["HEAD /bucket/a/x.pt"], b"").status, 502);
    assert_eq!(get(&server, "/bucket?list-type=2").status, 500);
    assert_eq!(get(&server, "/bucket?list-type=2").status, 200);
}

#[test]
fn a_share_falls_on_the_same_requests_again() {
    let run = |seed| {
        let server = server(&["status=500,share=0.3", "status=501,share=0.3"]);
        server.set_seed(seed);
        (0..60).map(|_| read(&server).status).collect::<Vec<_>>()
    };
    let first = run(1);
    for status in [200, 500, 501] {
        assert!(first.contains(&status));
    }
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
}

#[test]
fn rules_are_read_from_text_or_refused() {
    let rule = Rule { key: Some(".pt".to_owned()), ..Rule::always(Fault::ResetMid).times(3).on(On::Any) };
    assert_eq!("reset-mid,times=3,on=any,key=.pt".parse(), Ok(rule));
    for text in [
        "",
        "nonsense",
        "stall",
        "drip",
        "rewrite=x",
        "status=abc",
        "reset-mid=3",
        "flip,share=2",
        "flip,retry-after=1",
        "flip,on=x",
    ] {
        let error = text.parse::<Rule>().expect_err(text);
        assert!(error.contains("cannot use"), "{error}");
    }
}
