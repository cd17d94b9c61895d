//! Limits that a sandbox is held to.

use serde::{Deserialize, Serialize};

/// A token bucket: it holds `size` tokens at most and gains `size` tokens every `refill_time_ms`, steadily.
///
/// A token is a byte where bandwidth is limited and an operation where operations are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// Bytes.
    pub bandwidth: Option<TokenBucket>,
    /// Requests or frames.
    pub operations: Option<TokenBucket>,
}

impl RateLimit {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Limits of a whole sandbox. What is left out is unlimited, except the console, which is always bounded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Processor time per second of real time, in thousandths of one processor: 500 is half a processor.
    pub cpu_quota: Option<u32>,
    /// Processes and threads that the host sees of it: a container's own, or those of a micro-VM's worker.
    pub pids: Option<u32>,
    /// Console output that is kept, in bytes; older output is pushed out.
    pub console_bytes: u64,
    /// Real time from `start` until the sandbox is ended, in milliseconds.
    pub deadline_ms: Option<u64>,
    /// What a container reads from each disk of the host. The disks of a micro-VM have limits of their own.
    #[serde(skip_serializing_if = "RateLimit::is_none")]
    pub disk_read: RateLimit,
    /// What a container writes to each disk of the host.
    #[serde(skip_serializing_if = "RateLimit::is_none")]
    pub disk_write: RateLimit,
}

/// Console output kept unless the spec says otherwise, in bytes.
pub const DEFAULT_CONSOLE_BYTES: u64 = 64 << 10;

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_quota: None,
            pids: None,
            console_bytes: DEFAULT_CONSOLE_BYTES,
            deadline_ms: None,
            disk_read: RateLimit::default(),
            disk_write: RateLimit::default(),
        }
    }
}
