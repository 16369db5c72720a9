//! A client that takes down what comes, and how the connection ended.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use headwater_testkit::server::{Rule, Server, Speed};

/// The content of the object that the tests read: long enough that half of it is something.
pub(crate) fn content() -> Bytes {
    (0..5000_u32).map(|number| (number % 251) as u8).collect()
}

/// A server with one object, and these faults.
pub(crate) fn server(rules: &[&str]) -> Server {
    let server = Server::start(Speed::default()).expect("starts");
    server.put("a/x.pt", content());
    server.set_faults(rules.iter().map(|rule| rule.parse::<Rule>().expect("a rule")).collect());
    server
}

/// What came of a request.
#[derive(Debug)]
pub(crate) struct Heard {
    /// 0 if no head came.
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// How the connection ended, if not with a goodbye.
    pub(crate) broken: Option<ErrorKind>,
}

impl Heard {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.head.lines().filter_map(|line| line.split_once(": "));
        found.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// One request on a connection of its own. Lines: `GET /path`, then headers.
pub(crate) fn ask(server: &Server, lines: &[&str], body: &[u8]) -> Heard {
    let address = server.endpoint().replace("http://", "");
    let mut stream = TcpStream::connect(&address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_millis(500))).expect("set");
    let (first, rest) = (lines[0], lines[1..].iter().flat_map(|line| [line, "\r\n"]).collect::<String>());
    let length = body.len();
    let request =
        format!("{first} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{rest}Content-Length: {length}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("written");
    stream.write_all(body).expect("written");
    let (mut all, mut chunk) = (Vec::new(), [0; 4096]);
    let broken = loop {
        match stream.read(&mut chunk) {
            Ok(0) => break None,
            Ok(read) => all.extend_from_slice(&chunk[..read]),
            Err(error) => break Some(error.kind()),
        }
    };
    let split = all.windows(4).position(|four| four == b"\r\n\r\n").map_or(all.len(), |end| end + 4);
    let body = all.split_off(split);
    let head = String::from_utf8(all).expect("text");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Heard { status, head, body, broken }
}

/// A request without body or headers.
pub(crate) fn get(server: &Server, path: &str) -> Heard {
    ask(server, &[&format!("GET {path}")], b"")
}

/// The object over S3.
pub(crate) fn read(server: &Server) -> Heard {
    get(server, "/bucket/a/x.pt")
}

/// Bytes 10 to 19 of the object over S3.
pub(crate) fn read_range(server: &Server) -> Heard {
    ask(server, &["GET /bucket/a/x.pt", "Range: bytes=10-19"], b"")
}
