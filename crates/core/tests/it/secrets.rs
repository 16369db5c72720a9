//! Servers that repeat what they were sent: no error shows it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use headwater::buffer::BufferPool;
use headwater::source::{self, ReadRequest, SourceSpec, Transport};

const SECRET: &str = "PLANTED+SECRET/0123456789=";
/// What of it shows in whatever encoding.
const TELLING: &str = "PLANTED";

/// Answers everything with what it was sent, in this form.
fn echoing(form: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(answer(stream, form))));
    address
}

fn answer(mut stream: TcpStream, form: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let target = lines.next().transpose()?.unwrap_or_default();
    let mut said: Vec<_> = target.split(' ').skip(1).take(1).map(str::to_owned).collect();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        said.extend(line.split_once(": ").map(|(_, value)| value.to_owned()));
    }
    let repeated = said.join(" ");
    let (status, rest) = form.split_once('|').unwrap_or((form, ""));
    let (headers, body) = rest.split_once('|').unwrap_or(("", rest));
    let (headers, body) = (headers.replace("{}", &repeated), body.replace("{}", &repeated));
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} Oops\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

/// Every way to give a secret to every kind.
fn specs(at: SocketAddr) -> Vec<SourceSpec> {
    let endpoint = format!("http://{at}");
    let spec = |uri: &str, options: &[(&str, &str)]| {
        let all =
            [("endpoint", &*endpoint)].into_iter().filter(|_| !uri.starts_with("http")).chain(options.iter().copied());
        SourceSpec { uri: uri.to_owned(), options: all.collect() }
    };
    let keys = [("access_key_id", "AKIDEXAMPLE"), ("secret_access_key", SECRET), ("region", "test"), ("token", SECRET)];
    let signature = format!("sv=2024-01-01&se=2999-01-01&sig={}", SECRET.replace('+', "%2B").replace('/', "%2F"));
    vec![
        spec("s3://bucket/run", &keys),
        spec("gs://bucket/run", &[("token", SECRET)]),
        spec("az://bucket/run", &[("token", SECRET)]),
        spec("az://bucket/run", &[("sas_token", &signature)]),
        spec("hf://datasets/org/name@0123456789012345678901234567890123456789/run", &[("token", SECRET)]),
        spec(&format!("{endpoint}/run"), &[("token", SECRET)]),
        spec(&format!("{endpoint}/run"), &[("user", "somebody"), ("password", SECRET)]),
    ]
}

const FORMS: &[&str] = &[
    "500|unknown session {}",
    "400|unknown session {}",
    "403|unknown session {}",
    "401|unknown session {}",
    "404|unknown session {}",
    "416|unknown session {}",
    "503|<html><body>{}</body></html>",
    "400|<Error><Code>{}</Code><Message>{}</Message></Error>",
    "500|{\"error\": {\"message\": \"{}\", \"errors\": [{\"reason\": \"{}\"}]}}",
    "500|X-Error-Code: {}\r\nX-Error-Message: {}\r\nX-Ms-Error-Code: {}\r\n|",
    "403|X-Error-Code: {}\r\nX-Error-Message: {}\r\nX-Ms-Error-Code: {}\r\n|",
    "301|X-Amz-Bucket-Region: {}\r\n|",
    "200|<html>hello {}</html>",
    "200|{}",
    "200|<ListBucketResult><Contents><Key>{}</Key><Size>many</Size></Contents></ListBucketResult>",
    "200|Content-Type: {}\r\n|hello",
    "206|Content-Type: {}\r\nContent-Range: {}\r\n|hello",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_repeats_of_a_request_is_in_no_error() {
    let (buffers, transport) = (BufferPool::new(0), Transport { look: false, ..Transport::default() });
    let mut errors = Vec::new();
    for form in FORMS {
        for spec in specs(echoing(form)) {
            let source = match source::open_with(&spec, &transport).await {
                Ok(source) => source,
                Err(error) => {
                    errors.push((form, error));
                    continue;
                }
            };
            let ranged = ReadRequest { range: Some(0..4), ..ReadRequest::whole("x.pt") };
            errors.extend(source.page("", None).await.err().map(|error| (form, error)));
            errors.extend(source.head("x.pt").await.err().map(|error| (form, error)));
            errors.extend(source.read(&ReadRequest::whole("x.pt"), &buffers).await.err().map(|error| (form, error)));
            errors.extend(source.read(&ranged, &buffers).await.err().map(|error| (form, error)));
            errors.extend(source.publish("x.pt", "x".into()).await.err().map(|error| (form, error)));
        }
    }
    assert!(errors.len() > 400, "{}", errors.len());
    for (form, error) in errors {
        let shown = format!("{}\n{error:?}", error.report());
        assert!(!shown.contains(TELLING) && !shown.contains("UExBTlRFR"), "{form}: {shown}");
    }
}
