//! How sources are asked: policies around reading.
//!
//! Each policy wraps a [`Source`] and is one, so they stack in any order and a source never knows. [`with_policies`] is the
//! stack every dataset uses. Local sources need none: a system call cannot be cancelled, and the page cache has no quota.

mod deadline;
mod limit;

use std::sync::Arc;

use crate::source::Source;

pub use deadline::Deadline;
pub use limit::Limit;

/// Requests under way at once per source. Enough to hide 30 ms of latency at 1,000 small objects a second.
pub const MAX_CONCURRENT: usize = 32;

/// The stack: the limit outside, so that waiting for a turn does not count against the deadline.
pub fn with_policies(source: Arc<dyn Source>) -> Arc<dyn Source> {
    if source.is_local() {
        return source;
    }
    Arc::new(Limit::new(Arc::new(Deadline::new(source)), MAX_CONCURRENT))
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
