//! From the URI to a server that answers, and who we are to it.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater::engine::{Engine, uninterrupted};
use headwater::source::{Probe, Server, Transport};
use headwater::{Error, ErrorKind, Result};

use super::advice::{self, Adviser};
use super::report::{Finding, Found};
use crate::place::Place;

/// Of the addresses of one name: who has more has them for balance.
const ADDRESSES_TRIED: usize = 4;

pub(super) fn understood(place: &Place, uri: &str) -> Found<Arc<Probe>> {
    match place.probe(uri) {
        Ok(probe) => {
            let (kind, read_as) = (probe.kind(), probe.place());
            let at = probe.server().map(|server| format!(", asked at {server}")).unwrap_or_default();
            let finding = Finding::good(format!("{kind}: {read_as}{at}")).with("kind", kind).with("uri", read_as);
            let server = probe.server().map(ToString::to_string);
            (finding.with("server", server), Some(Arc::new(probe)))
        }
        Err(error) => (Finding::fail(&error, advice::URI), None),
    }
}

pub(super) fn resolved(server: &Server, scheme: &str) -> Found<Vec<SocketAddr>> {
    if let Ok(address) = server.host.parse::<IpAddr>() {
        let finding = Finding::good(format!("{address} is an address already"));
        return (finding.with("addresses", vec![address.to_string()]), Some(vec![(address, server.port).into()]));
    }
    let addresses = match (server.host.as_str(), server.port).to_socket_addrs() {
        Ok(found) => found.collect::<Vec<_>>(),
        Err(cause) => {
            let error = Error::new(ErrorKind::Unavailable, "resolve", &server.host).because(cause);
            return beyond_proxy(server, &error, advice::resolving(scheme), Vec::new());
        }
    };
    let shown: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    let finding = Finding::good(format!("{} is {}", server.host, shown.join(", "))).with("addresses", shown);
    (finding, Some(addresses))
}

pub(super) fn connected(server: &Server, addresses: &[SocketAddr]) -> Found<()> {
    if let (Some(proxy), true) = (&server.proxy, addresses.is_empty()) {
        return (Finding::good(format!("not directly: requests go through the proxy {proxy}")), Some(()));
    }
    let mut failures = Vec::new();
    for address in addresses.iter().take(ADDRESSES_TRIED) {
        let began = Instant::now();
        match TcpStream::connect_timeout(address, Transport::default().connect) {
            Ok(_) => return (accepted(server, *address, began.elapsed(), failures.len()), Some(())),
            Err(cause) => failures.push((*address, cause)),
        }
    }
    let words: Vec<_> = failures.iter().map(|(address, cause)| format!("{address}: {cause}")).collect();
    let was_slow = failures.iter().any(|(_, cause)| cause.kind() == io::ErrorKind::TimedOut);
    let error = Error::new(ErrorKind::Unavailable, "connect to", server).because(words.join("; "));
    let refused = failures.iter().any(|(_, cause)| cause.kind() == io::ErrorKind::ConnectionRefused);
    beyond_proxy(server, &error, &advice::connecting(server, refused, was_slow), ())
}

/// TLS shows with the first request: who speaks it is not asked here.
fn accepted(server: &Server, address: SocketAddr, time: Duration, deaf: usize) -> Finding {
    let milliseconds = time.as_secs_f64() * 1e3;
    let deaf = if deaf == 0 { String::new() } else { format!(", after {deaf} other addresses that do not answer") };
    let tls = if server.is_encrypted { "; TLS follows with the first request" } else { "" };
    let finding = Finding::good(format!("{address} in {milliseconds:.1} ms{deaf}{tls}"));
    finding.with("address", address.to_string()).with("milliseconds", milliseconds)
}

/// What fails from here need not fail from a proxy.
fn beyond_proxy<T>(server: &Server, error: &Error, advice: &str, found: T) -> Found<T> {
    match &server.proxy {
        Some(proxy) => (Finding::warn(error.report(), advice::proxy(proxy)), Some(found)),
        None => (Finding::fail(error, advice), None),
    }
}

pub(super) fn credentials(probe: Arc<Probe>, adviser: &Adviser<'_>) -> Found<()> {
    let ask = async move { probe.credentials().await };
    let found: Result<String> =
        Engine::current().and_then(|engine| engine.block_on("finding credentials", ask, uninterrupted())).flatten();
    match found {
        Ok(words) => (Finding::good(words.clone()).with("used", words), Some(())),
        Err(error) => (Finding::fail(&error, adviser.on(&error)), None),
    }
}
