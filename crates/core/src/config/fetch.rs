//! How sources are asked.

use serde::{Deserialize, Serialize};

use super::{ByteSize, Span};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::{Patience, Policies, Throttling};
use crate::source::Transport;

/// Fetch policies of every source of a dataset. What is left out has a default that is right for object stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FetchConfig {
    /// Requests under way at once per source, at most; how many is found out below that. Default: 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<usize>,
    /// Time for one object in all, further tries included; a second more per megabyte. Default: 60 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// Time for a connection. Default: 5 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Span>,
    /// Time for the next byte of an answer. Default: 15 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_progress_timeout: Option<Span>,
    /// Further tries after the first, within the deadline. Default: 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<usize>,
    /// Second requests for what takes longer than 95 of 100 others did, as a share of all requests; 0 for none. Default: 0.05.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<f64>,
    /// Bytes per second of all replicas together, at most. Default: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bandwidth: Option<ByteSize>,
    /// Bytes of the parts that objects of four parts and more are read in; 0 reads everything whole. Default: 8 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part_size: Option<ByteSize>,
    /// Whether whole objects are checked against the checksums that servers name. Default: auto, where that is cheap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Makes every source, local ones too, answer like a remote one. For demonstrations and benchmarks; announced in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttle: Option<ThrottleConfig>,
}

/// Which checksums to verify.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Those that cost little: CRCs, and SHA-256 where the processor has instructions for it.
    #[default]
    Auto,
    /// None.
    Never,
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
    /// How long one object is tried.
    pub(crate) fn patience(&self) -> Patience {
        let default = Patience::default();
        Patience {
            deadline: self.deadline.map_or(default.deadline, |span| span.0),
            retries: self.retries.unwrap_or(default.retries),
            ..default
        }
    }

    /// The policies it describes.
    ///
    /// # Errors
    /// `Invalid` for a time, rate or concurrency of zero, or a share that is none.
    pub fn policies(&self) -> Result<Policies> {
        let wrong = |name: &str, why: &str| Error::new(ErrorKind::Invalid, "use", name).because(why);
        let positive =
            |name: &str, is_zero: bool| if is_zero { Err(wrong(name, "0 would mean never")) } else { Ok(()) };
        positive("max_concurrency", self.max_concurrency == Some(0))?;
        for (name, span) in [
            ("deadline", self.deadline),
            ("connect_timeout", self.connect_timeout),
            ("no_progress_timeout", self.no_progress_timeout),
        ] {
            positive(name, span.is_some_and(|span| span.0.is_zero()))?;
        }
        positive("max_bandwidth", self.max_bandwidth == Some(ByteSize(0)))?;
        if self.hedge.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return Err(wrong("hedge", "it is a share of the requests, from 0 to 1"));
        }
        let throttling = self.throttle.map(|throttle| Throttling {
            first_byte: throttle.first_byte.map_or_else(Default::default, |span| span.0),
            stream_bytes_per_second: throttle.stream_rate.map(|rate| rate.0),
            total_bytes_per_second: throttle.total_rate.map(|rate| rate.0),
        });
        let rates = throttling.map(|it| [it.stream_bytes_per_second, it.total_bytes_per_second]);
        positive("throttle", rates.into_iter().flatten().any(|rate| rate == Some(0)))?;
        let (default, patience) = (Policies::default(), self.patience());
        Ok(Policies {
            transport: Transport {
                connect: self.connect_timeout.map_or(default.transport.connect, |span| span.0),
                no_progress: self.no_progress_timeout.map_or(default.transport.no_progress, |span| span.0),
                credentials: patience.deadline / 2,
                verify: self.verify.unwrap_or_default() == Verify::Auto,
                ..default.transport
            },
            patience,
            max_concurrency: self.max_concurrency.unwrap_or(default.max_concurrency),
            hedge: self.hedge.unwrap_or(default.hedge),
            bandwidth: self.max_bandwidth.map(|rate| rate.0),
            part_bytes: self.part_size.map_or(default.part_bytes, |size| size.0),
            throttling,
        })
    }
}
