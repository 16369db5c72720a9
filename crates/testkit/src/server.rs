//! An S3 server in memory, as slow as it is told to be.
//!
//! Speaks what object stores are asked for while training: listing in pages, whole objects and ranges, conditions on the entity
//! tag, storing and deleting — in path style, without looking at signatures. Any GET of `/bucket/key` is plain HTTP too. Bodies begin
//! after a time to the first byte and run at a stream's rate; all streams share a total rate. It holds objects in memory, so
//! nothing but the protocol and those figures limits it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, LAST_MODIFIED, RANGE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};
use xxhash_rust::xxh3::xxh3_128;

/// The one bucket.
pub const BUCKET: &str = "bucket";
/// Objects per page of a listing.
const PAGE_OBJECTS: usize = 1000;
/// Bytes sent between two looks at the clock.
const CHUNK: usize = 128 << 10;

type Body = BoxBody<Bytes, Infallible>;

/// How slow to be; nothing limits by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Speed {
    /// Time from a request to the first byte of its answer.
    pub first_byte: Duration,
    /// Bytes per second of one answer.
    pub stream_rate: Option<u64>,
    /// Bytes per second of all answers together.
    pub total_rate: Option<u64>,
}

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Debug)]
struct State {
    speed: Speed,
    objects: Mutex<BTreeMap<String, Object>>,
    /// When the shared line has carried all that was put on it.
    line_free_at: Mutex<Option<Instant>>,
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Bytes,
    tag: String,
}

impl Server {
    /// Starts on a free port of the loopback interface.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn start(speed: Speed) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("testkit-server")
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { speed, objects: Mutex::default(), line_free_at: Mutex::default() });
        runtime.spawn(accept(listener, state.clone()));
        Ok(Self { address, state, runtime: Some(runtime) })
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stores an object.
    pub fn put(&self, key: &str, bytes: Bytes) {
        self.state.put(key, bytes);
    }

    /// Stores every file below a folder under its path from there.
    ///
    /// # Errors
    /// Those of reading.
    pub fn put_folder(&self, folder: &Path) -> io::Result<usize> {
        let mut stored = 0;
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(next)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(key) = path.strip_prefix(folder) {
                    self.put(&key.to_string_lossy(), std::fs::read(&path)?.into());
                    stored += 1;
                }
            }
        }
        Ok(stored)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        // Without this, small answers wait for an acknowledgement that is held back.
        let _ = stream.set_nodelay(true);
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(state.answer(request).await) }
            });
            // A client that leaves early is no failure of ours.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let began = Instant::now();
        let path = percent_encoding::percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
        let Some(key) = path.strip_prefix('/').and_then(|path| path.strip_prefix(BUCKET)) else {
            return failure(StatusCode::NOT_FOUND, "NoSuchBucket");
        };
        let key = key.trim_start_matches('/').to_owned();
        let mut answer = match *request.method() {
            Method::GET if key.is_empty() => self.list(request.uri().query().unwrap_or_default()),
            Method::GET | Method::HEAD => self.read(&key, &request, began),
            Method::PUT => {
                let body = request.into_body().collect().await;
                let tag = self.put(&key, body.map(http_body_util::Collected::to_bytes).unwrap_or_default());
                let answer = Response::builder().header(ETAG, tag).body(empty());
                answer.unwrap_or_else(|_| failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"))
            }
            Method::POST if request.uri().query() == Some("delete") => {
                let body = request.into_body().collect().await;
                self.delete(&String::from_utf8_lossy(
                    &body.map(http_body_util::Collected::to_bytes).unwrap_or_default(),
                ))
            }
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        };
        sleep_until(began + self.speed.first_byte).await;
        answer.headers_mut().entry(LAST_MODIFIED).or_insert(hyper::header::HeaderValue::from_static(EPOCH));
        answer
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, key: &str, bytes: Bytes) -> String {
        let tag = format!("\"{:032x}\"", xxh3_128(&bytes));
        self.locked().insert(key.to_owned(), Object { bytes, tag: tag.clone() });
        tag
    }

    /// Removes the objects whose keys a request lists.
    fn delete(&self, xml: &str) -> Response<Body> {
        let mut objects = self.locked();
        let mut answer = String::from("<DeleteResult>");
        for (key, _) in xml.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>")) {
            objects.remove(key);
            let _ = write!(answer, "<Deleted><Key>{key}</Key></Deleted>");
        }
        answer.push_str("</DeleteResult>");
        Response::new(Full::new(answer.into()).boxed())
    }

    fn list(&self, query: &str) -> Response<Body> {
        let parameters: BTreeMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).collect();
        let get = |name: &str| parameters.get(name).map(|value| &**value);
        let max = get("max-keys").and_then(|max| max.parse().ok()).unwrap_or(PAGE_OBJECTS).min(PAGE_OBJECTS);
        let (prefix, after) = (get("prefix").unwrap_or_default(), get("continuation-token").unwrap_or_default());
        let objects = self.locked();
        let mut found = objects.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
        let page: Vec<_> = found.by_ref().take(max).collect();
        let mut xml = String::from("<ListBucketResult>");
        if let (Some(_), Some((last, _))) = (found.next(), page.last()) {
            let last = escaped(last);
            let _ = write!(xml, "<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>");
        }
        for (key, object) in page {
            let (key, size) = (escaped(key), object.bytes.len());
            let tag = escaped(&object.tag);
            let _ = write!(
                xml,
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{tag}</ETag>\
                 <Size>{size}</Size></Contents>"
            );
        }
        xml.push_str("</ListBucketResult>");
        Response::new(Full::new(xml.into()).boxed())
    }

    fn read(&self, key: &str, request: &Request<Incoming>, began: Instant) -> Response<Body> {
        let object = self.locked().get(key).cloned();
        let Some(object) = object else { return failure(StatusCode::NOT_FOUND, "NoSuchKey") };
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        if header(IF_MATCH).is_some_and(|wanted| wanted != object.tag) {
            return failure(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        let len = object.bytes.len();
        let answer = Response::builder().header(ETAG, &object.tag);
        let (answer, range) = match header(RANGE) {
            None => (answer, 0..len),
            Some(text) => match range_of(text, len) {
                None => return failure(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"),
                Some(range) => {
                    let shown = format!("bytes {}-{}/{len}", range.start, range.end - 1);
                    (answer.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, shown), range)
                }
            },
        };
        let answer = answer.header(CONTENT_LENGTH, range.len());
        let body =
            if request.method() == Method::HEAD { empty() } else { self.paced(object.bytes.slice(range), began) };
        answer.body(body).unwrap_or_else(|_| failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"))
    }

    /// A body that runs at the stream's rate, and on the shared line.
    fn paced(&self, bytes: Bytes, began: Instant) -> Body {
        let first = began + self.speed.first_byte;
        let (stream_rate, line) = (self.speed.stream_rate, self.line(first, bytes.len()));
        if stream_rate.is_none() && line.is_none() {
            return Full::new(bytes).boxed();
        }
        let total = bytes.len();
        let frames = stream::unfold(bytes, move |mut rest| async move {
            let chunk = rest.split_to(CHUNK.min(rest.len()));
            if chunk.is_empty() {
                return None;
            }
            let sent = total - rest.len();
            let by_stream = stream_rate.map(|rate| first + carried(sent, rate));
            // The line's time for this body is spread evenly over it.
            let on_line = line.map(|(from, time)| from + time.mul_f64(sent as f64 / total as f64));
            sleep_until(by_stream.into_iter().chain(on_line).max().unwrap_or(first)).await;
            Some((Ok(Frame::data(chunk)), rest))
        });
        StreamBody::new(frames).boxed()
    }

    /// When the shared line begins to carry so many bytes, and how long it takes.
    fn line(&self, first: Instant, bytes: usize) -> Option<(Instant, Duration)> {
        let time = carried(bytes, self.speed.total_rate?);
        let mut free_at = self.line_free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let from = free_at.map_or(first, |free| free.max(first));
        *free_at = Some(from + time);
        Some((from, time))
    }
}

const EPOCH: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

fn carried(bytes: usize, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate as f64)
}

fn empty() -> Body {
    Full::new(Bytes::new()).boxed()
}

fn failure(status: StatusCode, code: &str) -> Response<Body> {
    let xml = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
    let mut answer = Response::new(Full::new(xml.into()).boxed());
    *answer.status_mut() = status;
    answer
}

/// `bytes=a-b`, `bytes=a-` or `bytes=-n` within an object of `len` bytes.
fn range_of(text: &str, len: usize) -> Option<Range<usize>> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (from.parse::<usize>().ok(), to.parse::<usize>().ok()) {
        (Some(from), to) => from..to.map_or(len, |to| len.min(to + 1)),
        (None, Some(last)) => len.saturating_sub(last)..len,
        (None, None) => return None,
    };
    (range.start < range.end).then_some(range)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
