//! One request and its answer: understood by its protocol, spoiled by a fault, sent at its pace.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Collected};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::time::{Instant, sleep, sleep_until};

use super::answer::{self, Answer};
use super::body::{Body, Step};
use super::faults::Fault;
use super::protocol::{Asked, Call, PROTOCOLS, Problem, Protocol};
use super::wire::Control;
use super::{State, s3};

/// Where S3 has the token of temporary keys.
const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
/// Bytes that lying servers add or leave out.
const LIE: usize = 10;
/// Of a web page that nobody wants to read in an error.
const PAGE_BYTES: usize = 100_000;

/// The answer, or an error that ends the connection without one.
pub(super) async fn answer(
    state: Arc<State>,
    control: Arc<Control>,
    request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let began = Instant::now();
    let (parts, incoming) = request.into_parts();
    let body = match parts.method {
        Method::GET | Method::HEAD => Bytes::new(),
        _ => incoming.collect().await.map(Collected::to_bytes).unwrap_or_default(),
    };
    let (fault, answer) = decide(&state, &parts, body);
    match &fault {
        Some(Fault::ResetBefore) => {
            control.reset();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Some(Fault::Stall(time)) => sleep(*time).await,
        _ => {}
    }
    if !state.line.speed.first_byte.is_zero() {
        sleep_until(began + state.line.speed.first_byte).await;
    }
    let fault = fault.filter(|_| answer.status().is_success());
    Ok(send(&state, &control, fault.as_ref(), answer, began))
}

/// Which fault befalls a request, and the answer to it as far as that fault lets the protocol speak.
fn decide(state: &State, parts: &Parts, body: Bytes) -> (Option<Fault>, Answer) {
    let path: Cow<'_, str> = percent_decode_str(parts.uri.path()).decode_utf8_lossy();
    let protocol = *PROTOCOLS.iter().find(|protocol| protocol.owns(&path)).unwrap_or(&(&s3::S3 as &dyn Protocol));
    let asked = Asked { parts, path: &path, body };
    let mut call = protocol.call(&state.store, &asked);
    state.counters.count(call.class);
    if !is_expected(state, &asked) {
        return (None, protocol.failure(&asked, Problem::Expired));
    }
    let fault = state.faults.choose(&call);
    let mut answer = match &fault {
        None => protocol.answer(state, &asked, &call),
        Some(fault) => spoiled(state, protocol, &asked, &mut call, fault),
    };
    if parts.method == Method::HEAD {
        let len = answer.body().len();
        answer.headers_mut().insert(CONTENT_LENGTH, len.into());
        *answer.body_mut() = Bytes::new();
    }
    (fault, answer)
}

/// Whether a request's credentials have the words they should.
fn is_expected(state: &State, asked: &Asked<'_>) -> bool {
    let given = [asked.header(AUTHORIZATION), asked.header(SECURITY_TOKEN)];
    state.expected.lock().iter().all(|word| given.iter().flatten().any(|given| given.contains(&**word)))
}

/// The answer under a fault that shows in what is said, not in how it is sent.
fn spoiled<'a>(
    state: &State,
    protocol: &dyn Protocol,
    asked: &'a Asked<'a>,
    call: &mut Call<'a>,
    fault: &Fault,
) -> Answer {
    let failure = |problem| protocol.failure(asked, problem);
    match fault {
        Fault::Status { code, retry_after } => {
            let failed = failure(Problem::Status(*code));
            let Some(seconds) = retry_after else { return failed };
            return answer::with(failed, RETRY_AFTER, *seconds);
        }
        Fault::Missing => return failure(Problem::Missing),
        Fault::Denied => return failure(Problem::Denied),
        Fault::Expired => return failure(Problem::Expired),
        Fault::RedirectLoop => {
            return answer::with(answer::empty(StatusCode::FOUND), LOCATION, asked.parts.uri.to_string());
        }
        Fault::LoginPage => return answer::text(StatusCode::OK, "text/html", "<html><h1>Log in</h1></html>"),
        Fault::ErrorPage => {
            let page = format!("<html>the database of this shop is gone {}</html>", "x".repeat(PAGE_BYTES));
            return answer::text(StatusCode::INTERNAL_SERVER_ERROR, "text/html", page);
        }
        Fault::SwapBefore => {
            state.store.swap(call.key);
            *call = protocol.call(&state.store, asked);
        }
        Fault::ShortLength => call.object = call.object.as_ref().map(|object| Arc::new(object.shortened(LIE))),
        Fault::WholeForRange => call.range = None,
        _ => {}
    }
    let mut made = protocol.answer(state, asked, call);
    match fault {
        Fault::Swap => state.store.swap(call.key),
        Fault::WrongRange => shift_range(&mut made),
        Fault::Cut if made.status().is_success() => {
            let half = made.body().len() / 2;
            made.body_mut().truncate(half);
        }
        Fault::Flip if made.status().is_success() => {
            let mut bytes = made.body().to_vec();
            if let Some(byte) = bytes.get_mut(made.body().len() / 2) {
                *byte ^= 1;
            }
            *made.body_mut() = bytes.into();
        }
        Fault::Rewrite { one, other } => rewrite(&mut made, one, other),
        _ => {}
    }
    made
}

fn rewrite(answer: &mut Answer, one: &str, other: &str) {
    for value in answer.headers_mut().values_mut() {
        let rewritten = value.to_str().ok().map(|text| text.replace(one, other));
        if let Some(rewritten) = rewritten.and_then(|text| HeaderValue::from_str(&text).ok()) {
            *value = rewritten;
        }
    }
    if let Ok(text) = std::str::from_utf8(answer.body()) {
        *answer.body_mut() = text.replace(one, other).into();
    }
}

/// The answer on its way.
fn send(
    state: &State,
    control: &Arc<Control>,
    fault: Option<&Fault>,
    answer: Answer,
    began: Instant,
) -> Response<Body> {
    let (mut head, mut bytes) = answer.into_parts();
    if head.headers.contains_key(CONTENT_LENGTH) && bytes.is_empty() {
        return Response::from_parts(head, Body::Whole(bytes));
    }
    head.headers.insert(CONTENT_LENGTH, bytes.len().into());
    let pace = state.line.pace(began, bytes.len());
    let mut half = || bytes.split_to(bytes.len() / 2);
    let steps = match fault {
        Some(Fault::ResetMid | Fault::Swap) => vec![Step::Send(half()), Step::Break { reset: true }],
        Some(Fault::Truncate) => vec![Step::Send(half()), Step::Break { reset: false }],
        Some(&Fault::Drip(time)) => {
            bytes.chunks(1).flat_map(|byte| [Step::Wait(time), Step::Send(Bytes::copy_from_slice(byte))]).collect()
        }
        Some(&Fault::StallMid(time)) => vec![Step::Send(half()), Step::Wait(time), Step::Send(bytes)],
        Some(Fault::Long) => {
            head.headers.remove(CONTENT_LENGTH);
            vec![Step::Send(bytes), Step::Send(Bytes::from_static(&[b'+'; LIE]))]
        }
        _ if pace.is_some() => vec![Step::Send(bytes)],
        _ => return Response::from_parts(head, Body::Whole(bytes)),
    };
    Response::from_parts(head, Body::of_steps(steps, pace, control.clone()))
}

/// Says that the bytes are from one further on than they are.
fn shift_range(answer: &mut Answer) {
    let Some(shown) = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()) else { return };
    let numbers: Vec<u64> = shown.split(|c: char| !c.is_ascii_digit()).filter_map(|text| text.parse().ok()).collect();
    if let [from, to, len] = numbers[..]
        && let Ok(value) = HeaderValue::try_from(format!("bytes {}-{}/{len}", from + 1, to + 1))
    {
        answer.headers_mut().insert(CONTENT_RANGE, value);
    }
}
