//! How sources are asked.

use serde::{Deserialize, Serialize};

use super::{ByteSize, Span};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::{MAX_CONCURRENCY, Policies, Throttling};

/// Fetch policies of every source of a dataset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FetchConfig {
    /// Requests under way at once per source. Default: 32. Raise it for many small objects far away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<usize>,
    /// Makes every source, local ones too, answer like a remote one. For demonstrations and benchmarks; announced in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttle: Option<ThrottleConfig>,
}

/// The remote to emulate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ThrottleConfig {
    /// Time to the first byte of an answer. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<Span>,
    /// Bytes per second of one stream. Default: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_rate: Option<ByteSize>,
    /// Bytes per second of all streams together. Default: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_rate: Option<ByteSize>,
}

impl FetchConfig {
    /// The policies it describes.
    ///
    /// # Errors
    /// `Invalid` for a rate or concurrency of zero.
    pub fn policies(&self) -> Result<Policies> {
        let wrong = |name: &str| Err(Error::new(ErrorKind::Invalid, "use", name).because("0 would mean never"));
        let max_concurrency = self.max_concurrency.unwrap_or(MAX_CONCURRENCY);
        if max_concurrency == 0 {
            return wrong("max_concurrency");
        }
        let throttling = self.throttle.map(|throttle| Throttling {
            first_byte: throttle.first_byte.map_or_else(Default::default, |span| span.0),
            stream_bytes_per_second: throttle.stream_rate.map(|rate| rate.0),
            total_bytes_per_second: throttle.total_rate.map(|rate| rate.0),
        });
        let rates = throttling.map(|it| [it.stream_bytes_per_second, it.total_bytes_per_second]);
        if rates.into_iter().flatten().any(|rate| rate == Some(0)) {
            return wrong("throttle");
        }
        Ok(Policies { max_concurrency, throttling })
    }
}
