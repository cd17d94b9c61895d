//! Limits that a sandbox is held to.

use serde::{Deserialize, Serialize};

/// A token bucket: it holds `size` tokens at most and gains `size` tokens every `refill_time_ms`, steadily.
///
/// A token is a byte where bandwidth is limited and an operation where operations are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// Capacity, in tokens; not 0.
    pub size: u64,
    /// Time in which an empty bucket fills, in milliseconds; not 0.
    pub refill_time_ms: u64,
    /// Tokens that may be spent once at the start, before the bucket's own.
    #[serde(default)]
    pub one_time_burst: u64,
}

/// Limits of one direction of one device. What is left out is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// Bytes.
    pub bandwidth: Option<TokenBucket>,
    /// Requests or frames.
    pub operations: Option<TokenBucket>,
}
