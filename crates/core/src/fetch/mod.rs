//! How sources are asked: policies around reading.
//!
//! Each policy wraps a [`Source`] and is one, so they stack in any order and a source never knows. [`with_policies`] is the
//! stack every dataset uses, outermost first:
//!
//! | policy | what it does |
//! |---|---|
//! | [`Coalesce`] | neighbouring small ranges of an object become one request |
//! | [`Bandwidth`] | no faster than allowed |
//! | [`Limit`] | so many requests at once; how many is found out |
//! | [`Retry`] | again, until a total deadline |
//! | [`Failover`] | the next replica when one fails, is slow or lies; a breaker each |
//! | [`Parts`] | a large object becomes several ranges at once |
//! | [`Hedge`] | a second request when one takes unusually long |
//!
//! Bandwidth and limit are around the deadline, so that waiting for a turn does not count against it nor as slowness, and who pauses before trying again
//! keeps the turn: a remote that is in trouble is asked less. Within both a read stops at its [`Gate`](crate::source::Gate), if it has one: whether it is
//! still wanted is decided then, and what it had is given back. Failing over comes before pausing: a dead replica costs its error.
//! Local sources alone need none of it: a system call cannot be cancelled, and the page cache has no quota.

mod bandwidth;
mod breaker;
mod coalesce;
mod failover;
mod hedge;
mod latency;
mod lazy;
mod limit;
mod parts;
mod retry;
mod signals;
mod throttle;

use std::sync::Arc;

use crate::metrics::Metrics;
use crate::source::{Source, Transport};

pub use bandwidth::Bandwidth;
pub use coalesce::{Coalesce, GAP_BYTES};
pub use failover::Failover;
pub(crate) use failover::all_failed;
pub use hedge::{HEDGE_BUDGET, Hedge};
pub use lazy::Lazy;
pub use limit::Limit;
pub use parts::{PART_BYTES, Parts};
pub use retry::{Patience, Retry, open};
use signals::Signals;
pub(crate) use signals::jitter;
pub use throttle::{Throttle, Throttling};

/// Requests under way at once per source, at most. Enough to hide 30 ms of latency at 8,000 small objects a second.
pub const MAX_CONCURRENCY: usize = 256;

/// Which policies to put around a source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policies {
    /// How connections behave, and whether bytes are verified.
    pub transport: Transport,
    /// How long to try.
    pub patience: Patience,
    /// Requests under way at once per source, at most.
    pub max_concurrency: usize,
    /// Second requests per request, at most; 0 for none.
    pub hedge: f64,
    /// Bytes per second of all replicas together, at most.
    pub bandwidth: Option<u64>,
    /// Bytes of the parts that large objects are read in; 0 reads them whole.
    pub part_bytes: u64,
    /// The remote to emulate, if any.
    pub throttling: Option<Throttling>,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            transport: Transport::default(),
            patience: Patience::default(),
            max_concurrency: MAX_CONCURRENCY,
            hedge: HEDGE_BUDGET,
            bandwidth: None,
            part_bytes: PART_BYTES,
            throttling: None,
        }
    }
}

/// The stack around replicas of one place, in order of preference; there is at least one. It counts into these metrics, as of the first
/// replica.
pub fn with_policies(replicas: Vec<Arc<dyn Source>>, policies: &Policies, metrics: &Arc<Metrics>) -> Arc<dyn Source> {
    if let [only] = &replicas[..]
        && only.is_local()
        && policies.throttling.is_none()
    {
        return only.clone();
    }
    let signals = Arc::new(Signals::new(metrics.clone(), &replicas[0].name()));
    let mut replicas: Vec<_> = replicas.into_iter().map(|source| around_replica(source, policies, &signals)).collect();
    let source = if replicas.len() == 1 {
        replicas.swap_remove(0)
    } else {
        Arc::new(Failover::new(replicas, policies.patience.deadline, signals.clone()))
    };
    let source = Arc::new(Retry::new(source, policies.patience, signals.clone()));
    let source = Arc::new(Limit::new(source, policies.max_concurrency, signals.clone()));
    let source: Arc<dyn Source> = match policies.bandwidth {
        Some(bandwidth) => Arc::new(Bandwidth::new(source, bandwidth)),
        None => source,
    };
    Arc::new(Coalesce::new(source, GAP_BYTES, signals))
}

fn around_replica(source: Arc<dyn Source>, policies: &Policies, signals: &Arc<Signals>) -> Arc<dyn Source> {
    let source: Arc<dyn Source> = match policies.throttling {
        Some(throttling) => Arc::new(Throttle::new(source, throttling)),
        None if source.is_local() => return source,
        None => source,
    };
    let source = if policies.hedge > 0.0 {
        Arc::new(Hedge::new(source, policies.hedge, signals.clone())) as Arc<dyn Source>
    } else {
        source
    };
    // Within a replica: parts of several would be of several versions, and it is the whole that replicas are compared by.
    match policies.part_bytes {
        0 => source,
        bytes => Arc::new(Parts::new(source, bytes, signals.clone())),
    }
}

/// Everything but `page`, `head` and `read` is passed through, or what is only told and not asked for. Whoever waits, waits:
/// nothing is read on the calling thread.
macro_rules! delegate {
    () => {
        delegate!(told);

        fn publish<'a>(&'a self, key: &'a str, bytes: bytes::Bytes) -> futures_util::future::BoxFuture<'a, Result<()>> {
            self.inner.publish(key, bytes)
        }
    };
    (told) => {
        fn uri(&self) -> &str {
            self.inner.uri()
        }

        fn endpoint(&self) -> Option<&str> {
            self.inner.endpoint()
        }

        fn is_pinned(&self) -> bool {
            self.inner.is_pinned()
        }

        fn credentials(&self) -> String {
            self.inner.credentials()
        }

        fn verified(&self) -> Option<&'static str> {
            self.inner.verified()
        }

        fn leads_nowhere(&self, token: &str) -> bool {
            self.inner.leads_nowhere(token)
        }

        fn uri_of(&self, key: &str) -> String {
            self.inner.uri_of(key)
        }
    };
}
use delegate;

#[cfg(test)]
mod tests;
