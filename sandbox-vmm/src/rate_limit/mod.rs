//! Rate limits of devices: token buckets, and the timer that a device which has to wait goes on by.

mod bucket;
mod limiter;

pub use bucket::{Bucket, Consumption};
pub use limiter::{RateLimitError, RateLimiter};
