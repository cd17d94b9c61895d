//! How many instances of a function there may be, and for how long.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::FunctionError;

/// The most instances that one function may ask for: each has a tap, a subnet and several descriptors.
const MAX_INSTANCES: u32 = 1000;
/// The longest queue: what waits in it holds a connection and the head of a request.
const MAX_QUEUE: usize = 100_000;

/// How many instances, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scale {
    /// The most instances at a time.
    pub max: u32,
    /// Idle instances that stand by, started ahead of requests.
    pub warm: u32,
    /// Sandboxes that are made ahead of requests and do not run, where `start` is `pool`; 4 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<u32>,
    /// How long an instance beyond those may be idle before it is given up, in milliseconds.
    pub idle_ms: u64,
    /// Whether an instance serves further requests after its first one.
    pub reuse: bool,
    /// The most requests that wait for an instance beyond those for which one is being started.
    pub queue: usize,
    /// The longest time that a request waits for an instance, in milliseconds.
    pub queue_ms: u64,
    /// The longest time that an instance takes to get ready, in milliseconds.
    pub start_ms: u64,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            max: 20,
            warm: 0,
            pool: None,
            idle_ms: 60_000,
            reuse: true,
            queue: 100,
            queue_ms: 10_000,
            start_ms: 30_000,
        }
    }
}

impl Scale {
    pub(super) fn validate(&self) -> Result<(), FunctionError> {
        if !(1..=MAX_INSTANCES).contains(&self.max) {
            return Err(FunctionError::new("scale.max", format!("must be 1 to {MAX_INSTANCES}")));
        }
        if self.warm > self.max {
            let reason = format!("must be at most scale.max, which is {}", self.max);
            return Err(FunctionError::new("scale.warm", reason));
        }
        if let Some(pool) = self.pool
            && !(1..=self.max).contains(&pool)
        {
            let reason = format!("must be 1 to scale.max, which is {}", self.max);
            return Err(FunctionError::new("scale.pool", reason));
        }
        if self.queue > MAX_QUEUE {
            return Err(FunctionError::new(
                "scale.queue",
                format!("must be at most {MAX_QUEUE}"),
            ));
        }
        for (field, value) in [("scale.queue_ms", self.queue_ms), ("scale.start_ms", self.start_ms)] {
            if value == 0 {
                return Err(FunctionError::new(field, "must be at least 1"));
            }
        }
        Ok(())
    }

    /// How long an instance beyond the warm ones may be idle.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    /// The longest wait for an instance.
    pub fn queue_wait(&self) -> Duration {
        Duration::from_millis(self.queue_ms)
    }

    /// The longest time that an instance takes to get ready.
    pub fn start_wait(&self) -> Duration {
        Duration::from_millis(self.start_ms)
    }
}
