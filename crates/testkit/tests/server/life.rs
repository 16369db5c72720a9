use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use bytes::Bytes;
use headwater_testkit::server::{Class, Server, Speed};

use crate::client::{ask, content, get, read, server};

#[test]
fn a_killed_server_resets_and_refuses_until_it_is_revived() {
    let server = server(&[]);
    let address = server.endpoint().replace("http://", "");
    read(&server);
    let mut open = TcpStream::connect(&address).expect("connects");
    while server.connections() < 2 {
        std::thread::yield_now();
    }
    server.kill().expect("killed");
    assert_eq!(open.read(&mut [0]).expect_err("reset").kind(), ErrorKind::ConnectionReset);
    assert_eq!(TcpStream::connect(&address).expect_err("closed").kind(), ErrorKind::ConnectionRefused);
    assert_eq!(server.connections_open(), 0);
    server.kill().expect("stays killed");
    server.revive().expect("revived");
    server.revive().expect("stays so");
    assert_eq!(read(&server).body, content());
}

#[test]
fn requests_are_counted_by_what_they_ask() {
    let server = server(&[]);
    read(&server);
    get(&server, "/storage/v1/b/bucket/o?maxResults=1");
    ask(&server, &["HEAD /plain/a/x.pt"], b"");
    ask(&server, &["PUT /plain/b"], b"b");
    let of = |class| server.requests_of(class);
    assert_eq!([of(Class::Get), of(Class::List), of(Class::Head), of(Class::Other)], [1; 4]);
    assert_eq!((server.requests(), server.connections(), server.faults_done()), (4, 4, 0));
}

#[test]
fn synthetic_keys_are_listed_to_the_end() {
    let server = Server::start(Speed::default()).expect("starts");
    server.put_synthetic(2500);
    let (mut keys, mut token) = (0, String::new());
    loop {
        let text = get(&server, &format!("/bucket?list-type=2&continuation-token={token}")).text();
        keys += text.matches("<Key>").count();
        match text.split_once("<NextContinuationToken>").and_then(|(_, rest)| rest.split_once('<')) {
            Some((next, _)) => next.clone_into(&mut token),
            None => break,
        }
    }
    assert_eq!(keys, 2500);
    assert_eq!(get(&server, "/bucket/key-0002500.pt").body, [0; 1000]);
}

#[test]
fn a_rate_is_kept_and_loses_nothing() {
    let server = Server::start(Speed { stream_rate: Some(50_000_000), ..Speed::default() }).expect("starts");
    let bytes: Bytes = vec![7; 1 << 20].into();
    server.put("x", bytes.clone());
    assert_eq!(get(&server, "/bucket/x").body, bytes);
}
