//! The limits of one device: a bucket of bytes, a bucket of operations, and a timer.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use sandbox_core::limits::{RateLimit, TokenBucket};
use vmm_sys_util::timerfd::TimerFd;

use super::Bucket;
use crate::devices::virtio::HostEvent;

/// Why a limiter cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RateLimitError {
    /// A bucket of size 0, or that never fills.
    #[error("the {0} limit has a size or a refill time of 0: give both a positive value or leave the limit out")]
    EmptyBucket(&'static str),
    /// The host has no descriptor left for the timer.
    #[error("cannot make the timer of a rate limit")]
    Timer(#[source] io::Error),
}

/// Holds a device to its [`RateLimit`]. Without any limit it costs neither a descriptor nor a look at the clock.
///
/// A device asks [`RateLimiter::admit`] before each request. Once refused it stops, and goes on when the descriptor of
/// [`RateLimiter::host_event`] becomes readable and it has called [`RateLimiter::timer_fired`].
#[derive(Debug, Default)]
pub struct RateLimiter {
    bandwidth: Option<Bucket>,
    operations: Option<Bucket>,
    /// There if one of the buckets is.
    timer: Option<TimerFd>,
    waiting: bool,
}

impl RateLimiter {
    /// A limiter with full buckets.
    pub fn new(limit: RateLimit) -> Result<Self, RateLimitError> {
        let now = Instant::now();
        let bandwidth = bucket("bandwidth", limit.bandwidth, now)?;
        let operations = bucket("operations", limit.operations, now)?;
        let timer = match bandwidth.is_some() || operations.is_some() {
            true => Some(TimerFd::new().map_err(|error| RateLimitError::Timer(error.into()))?),
            false => None,
        };
        Ok(Self {
            bandwidth,
            operations,
            timer,
            waiting: false,
        })
    }

    /// Takes one operation of `bytes`. When a bucket lacks the tokens, nothing is taken, the timer is set and the
    /// answer is false.
    pub fn admit(&mut self, bytes: u64) -> bool {
        match self.timer {
            None => true,
            Some(_) => self.admit_at(bytes, Instant::now()),
        }
    }

    /// True between a refusal and [`RateLimiter::timer_fired`].
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// The timer for the event loop, readable when the refused request may be tried again; `None` without limits.
    pub fn host_event(&self, token: u32) -> Option<HostEvent> {
        let fd = self.timer.as_ref()?.as_raw_fd();
        Some(HostEvent { fd, token })
    }

    /// To be called when the timer's descriptor became readable, before anything is tried again. Never blocks, also
    /// when the timer has not fired.
    pub fn timer_fired(&mut self) {
        self.waiting = false;
        // Disarming also forgets the expirations; reading them would block if there were none.
        if let Some(Err(error)) = self.timer.as_mut().map(TimerFd::clear) {
            tracing::debug!(%error, "rate limit timer not disarmed");
        }
    }

    fn admit_at(&mut self, bytes: u64, now: Instant) -> bool {
        let wait = waiting_time(&mut self.bandwidth, bytes, now).max(waiting_time(&mut self.operations, 1, now));
        if wait == Duration::ZERO {
            spend(&mut self.bandwidth, bytes);
            spend(&mut self.operations, 1);
            return true;
        }
        let armed = self.timer.as_mut().map(|timer| timer.reset(wait, None));
        self.waiting = matches!(armed, Some(Ok(())));
        if !self.waiting {
            // The kernel takes any positive time. If it refused all the same, nothing would wake the device again, and
            // a guest that lost its disk is worse than a request too early.
            tracing::warn!(?armed, "rate limit timer not set, request let through");
        }
        !self.waiting
    }
}

fn bucket(name: &'static str, config: Option<TokenBucket>, now: Instant) -> Result<Option<Bucket>, RateLimitError> {
    config
        .map(|config| Bucket::new(config, now).ok_or(RateLimitError::EmptyBucket(name)))
        .transpose()
}

fn waiting_time(bucket: &mut Option<Bucket>, tokens: u64, now: Instant) -> Duration {
    bucket
        .as_mut()
        .map_or(Duration::ZERO, |bucket| bucket.waiting_time(tokens, now))
}

fn spend(bucket: &mut Option<Bucket>, tokens: u64) {
    if let Some(bucket) = bucket {
        bucket.spend(tokens);
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

    use super::*;

    fn per_second(size: u64) -> Option<TokenBucket> {
        Some(TokenBucket {
            size,
            refill_time_ms: 1000,
            one_time_burst: 0,
        })
    }

    /// Whether the timer's descriptor becomes readable within `milliseconds`.
    fn fires(limiter: &RateLimiter, milliseconds: i32) -> bool {
        let epoll = Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, 0);
        let timer = limiter.host_event(0).unwrap();
        epoll.ctl(ControlOperation::Add, timer.fd, event).unwrap();
        let mut ready = [EpollEvent::default()];
        epoll.wait(milliseconds, &mut ready).unwrap() == 1
    }

    #[test]
    fn without_limits_there_is_no_timer_and_no_refusal() {
        let mut limiter = RateLimiter::new(RateLimit::default()).unwrap();
        assert!(limiter.host_event(0).is_none());
        assert!((0..1000).all(|_| limiter.admit(u64::MAX)));
        limiter.timer_fired();
        assert!(!limiter.is_waiting());
    }

    #[test]
    fn an_empty_bucket_is_refused_by_name() {
        let limit = RateLimit {
            operations: per_second(0),
            ..RateLimit::default()
        };
        let error = RateLimiter::new(limit).unwrap_err().to_string();
        assert!(error.starts_with("the operations limit"), "{error}");
    }

    #[test]
    fn both_buckets_must_agree_and_a_refusal_takes_nothing() {
        let limit = RateLimit {
            bandwidth: per_second(100),
            operations: per_second(2),
        };
        let mut limiter = RateLimiter::new(limit).unwrap();
        let now = Instant::now();
        assert!(limiter.admit_at(100, now));
        assert!(!limiter.admit_at(1, now));
        assert!(limiter.is_waiting());
        // The refusal above did not take an operation.
        limiter.timer_fired();
        assert!(limiter.admit_at(0, now));
        assert!(!limiter.admit_at(0, now));
    }

    #[test]
    fn the_timer_fires_when_the_refused_request_may_be_tried_again() {
        let limit = RateLimit {
            bandwidth: per_second(1000),
            ..RateLimit::default()
        };
        let mut limiter = RateLimiter::new(limit).unwrap();
        assert!(limiter.admit(1000));
        assert!(!fires(&limiter, 0));
        assert!(!limiter.admit(10));
        assert!(fires(&limiter, 10_000));
        limiter.timer_fired();
        assert!(!limiter.is_waiting());
        assert!(!fires(&limiter, 0));
        assert!(limiter.admit(10));
    }

    #[test]
    fn a_timer_that_has_not_fired_does_not_block() {
        let limit = RateLimit {
            operations: per_second(1),
            ..RateLimit::default()
        };
        let mut limiter = RateLimiter::new(limit).unwrap();
        limiter.timer_fired();
        limiter.timer_fired();
        assert!(limiter.admit(0));
    }
}
