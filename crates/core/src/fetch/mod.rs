//! How sources are asked: policies around reading.
//!
//! Each policy wraps a [`Source`] and is one, so they stack in any order and a source never knows. [`with_policies`] is the
//! stack every dataset uses. Local sources need none: a system call cannot be cancelled, and the page cache has no quota.

mod deadline;
mod limit;
mod throttle;

use std::sync::Arc;

use crate::source::Source;

pub use deadline::Deadline;
pub use limit::Limit;
pub use throttle::{Throttle, Throttling};

/// Requests under way at once per source. Enough to hide 30 ms of latency at 1,000 small objects a second.
pub const MAX_CONCURRENCY: usize = 32;

/// Which policies to put around a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policies {
    /// Requests under way at once per source.
    pub max_concurrency: usize,
    /// The remote to emulate, if any.
    pub throttling: Option<Throttling>,
}

impl Default for Policies {
    fn default() -> Self {
        Self { max_concurrency: MAX_CONCURRENCY, throttling: None }
    }
}

/// The stack: the limit outside, so that waiting for a turn does not count against the deadline.
pub fn with_policies(source: Arc<dyn Source>, policies: &Policies) -> Arc<dyn Source> {
    let source: Arc<dyn Source> = match policies.throttling {
        Some(throttling) => Arc::new(Throttle::new(source, throttling)),
        None if source.is_local() => return source,
        None => source,
    };
    Arc::new(Limit::new(Arc::new(Deadline::new(source)), policies.max_concurrency))
}

/// Everything but `list`, `head` and `read` is passed through.
macro_rules! delegate {
    () => {
        fn uri(&self) -> &str {
            self.inner.uri()
        }

        fn is_local(&self) -> bool {
            self.inner.is_local()
        }

        fn read_blocking(&self, request: &ReadRequest, buffers: &BufferPool) -> Option<Result<ObjectBytes>> {
            self.inner.read_blocking(request, buffers)
        }

        fn uri_of(&self, key: &str) -> String {
            self.inner.uri_of(key)
        }
    };
}
use delegate;

#[cfg(test)]
mod tests;
