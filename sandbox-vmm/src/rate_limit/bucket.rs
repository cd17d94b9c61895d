//! A token bucket. It reads no clock: the time is passed in.

use std::time::{Duration, Instant};

use sandbox_core::limits::TokenBucket;

/// What became of a request for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumption {
    /// The tokens were taken.
    Granted,
    /// Nothing was taken; the same request is granted after this time if nobody else takes tokens meanwhile.
    Wait(Duration),
}

/// A bucket that holds at most `size` tokens and gains `size` tokens per `refill_time`, steadily.
///
/// A request for more tokens than the bucket can ever hold would wait for ever. It is granted when the bucket is full,
/// as an overdraft: the tokens that were missing are a debt, paid off before the bucket gains anything again, so that
/// the rate holds over time.
///
/// Amounts are kept in token-nanoseconds (tokens × refill time), in which a refill is a whole number and nothing is
/// lost by rounding however often the bucket is asked.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Tokens gained per refill time; not 0.
    size: u64,
    /// Refill time in nanoseconds; not 0.
    refill_nanos: u64,
    /// What is in the bucket, in token-nanoseconds.
    credit: u128,
    /// What was taken beyond an empty bucket, in token-nanoseconds; not 0 only while `credit` is 0.
    debt: u128,
    /// Tokens left of the one-time burst.
    burst: u64,
    /// Up to when the bucket was refilled.
    refilled: Instant,
}

impl Bucket {
    /// A full bucket. `None` if its size or its refill time is 0: no request could ever be granted.
    pub fn new(config: TokenBucket, now: Instant) -> Option<Self> {
        let refill = Duration::from_millis(config.refill_time_ms);
        let refill_nanos = nanoseconds(refill);
        if config.size == 0 || refill_nanos == 0 {
            return None;
        }
        Some(Self {
            size: config.size,
            refill_nanos,
            credit: u128::from(config.size) * u128::from(refill_nanos),
            debt: 0,
            burst: config.one_time_burst,
            refilled: now,
        })
    }

    /// Takes `tokens`, or tells how long to wait for them. `now` must not go back; if it does, nothing is gained.
    pub fn consume(&mut self, tokens: u64, now: Instant) -> Consumption {
        let wait = self.waiting_time(tokens, now);
        if wait > Duration::ZERO {
            return Consumption::Wait(wait);
        }
        self.spend(tokens);
        Consumption::Granted
    }

    /// How long to wait until `tokens` would be granted; zero if they would be at once.
    pub fn waiting_time(&mut self, tokens: u64, now: Instant) -> Duration {
        self.refill(now);
        let needed = self.cost(tokens).min(self.capacity());
        let mut missing = needed.saturating_sub(self.credit);
        if missing > 0 {
            missing = missing.saturating_add(self.debt);
        }
        // Rounded up, so that whoever waits this long is granted the tokens.
        let nanos = missing.div_ceil(u128::from(self.size));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Takes `tokens` whether they are there or not: the one-time burst first, then what is in the bucket, the rest as
    /// a debt.
    pub fn spend(&mut self, tokens: u64) {
        let cost = self.cost(tokens);
        self.burst = self.burst.saturating_sub(tokens);
        let paid = cost.min(self.credit);
        self.credit -= paid;
        self.debt = self.debt.saturating_add(cost - paid);
    }

    /// What `tokens` cost beyond the one-time burst, in token-nanoseconds.
    fn cost(&self, tokens: u64) -> u128 {
        u128::from(tokens.saturating_sub(self.burst)) * u128::from(self.refill_nanos)
    }

    fn capacity(&self) -> u128 {
        u128::from(self.size) * u128::from(self.refill_nanos)
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = nanoseconds(now.saturating_duration_since(self.refilled));
        if elapsed == 0 {
            return;
        }
        self.refilled = now;
        let gained = u128::from(elapsed) * u128::from(self.size);
        let paid_off = gained.min(self.debt);
        self.debt -= paid_off;
        self.credit = self.credit.saturating_add(gained - paid_off).min(self.capacity());
    }
}

/// A duration in nanoseconds, at most the 584 years that fit.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bucket(size: u64, refill_time_ms: u64, one_time_burst: u64) -> (Bucket, Instant) {
        let now = Instant::now();
        let config = TokenBucket {
            size,
            refill_time_ms,
            one_time_burst,
        };
        (Bucket::new(config, now).unwrap(), now)
    }

    #[test]
    fn a_bucket_that_could_never_grant_anything_is_refused() {
        let empty = TokenBucket {
            size: 0,
            refill_time_ms: 1,
            one_time_burst: 0,
        };
        let stopped = TokenBucket {
            size: 1,
            refill_time_ms: 0,
            one_time_burst: 0,
        };
        assert!(Bucket::new(empty, Instant::now()).is_none());
        assert!(Bucket::new(stopped, Instant::now()).is_none());
    }

    #[test]
    fn tokens_come_back_steadily() {
        let (mut bucket, start) = bucket(1000, 1000, 0);
        assert_eq!(bucket.consume(1000, start), Consumption::Granted);
        assert_eq!(bucket.consume(1, start), Consumption::Wait(Duration::from_millis(1)));
        let later = start + Duration::from_micros(500);
        assert_eq!(bucket.consume(1, later), Consumption::Wait(Duration::from_micros(500)));
        let later = start + Duration::from_millis(300);
        assert_eq!(bucket.consume(300, later), Consumption::Granted);
        assert_eq!(
            bucket.consume(100, later),
            Consumption::Wait(Duration::from_millis(100))
        );
    }

    #[test]
    fn a_bucket_never_holds_more_than_its_size() {
        let (mut bucket, start) = bucket(10, 1000, 0);
        let later = start + 100 * SECOND;
        assert_eq!(bucket.consume(10, later), Consumption::Granted);
        assert_eq!(bucket.consume(1, later), Consumption::Wait(SECOND / 10));
    }

    #[test]
    fn the_burst_is_spent_first_and_once() {
        let (mut bucket, start) = bucket(10, 1000, 25);
        assert_eq!(bucket.consume(20, start), Consumption::Granted);
        assert_eq!(bucket.consume(15, start), Consumption::Granted);
        assert_eq!(bucket.consume(1, start), Consumption::Wait(SECOND / 10));
        let later = start + 100 * SECOND;
        assert_eq!(bucket.consume(10, later), Consumption::Granted);
        assert_eq!(bucket.consume(10, later), Consumption::Wait(SECOND));
    }

    #[test]
    fn a_request_larger_than_the_bucket_waits_for_a_full_one_and_leaves_a_debt() {
        let (mut bucket, start) = bucket(10, 1000, 0);
        assert_eq!(bucket.consume(1, start), Consumption::Granted);
        assert_eq!(bucket.consume(50, start), Consumption::Wait(SECOND / 10));
        let full = start + SECOND / 10;
        assert_eq!(bucket.consume(50, full), Consumption::Granted);
        // 40 tokens of debt, then the one that is asked for.
        assert_eq!(bucket.consume(1, full), Consumption::Wait(4 * SECOND + SECOND / 10));
        assert_eq!(bucket.consume(0, full), Consumption::Granted);
    }

    #[test]
    fn a_clock_that_goes_back_gains_nothing() {
        let (mut bucket, start) = bucket(10, 1000, 0);
        let later = start + SECOND;
        assert_eq!(bucket.consume(10, later), Consumption::Granted);
        assert_eq!(bucket.consume(1, start), Consumption::Wait(SECOND / 10));
        assert_eq!(bucket.consume(1, later), Consumption::Wait(SECOND / 10));
    }

    proptest! {
        #[test]
        fn grants_stay_within_burst_rate_and_one_overdraft(
            size in 1u64..5000,
            refill_time_ms in 1u64..5000,
            one_time_burst in 0u64..5000,
            steps in prop::collection::vec((0u64..20_000, 0u64..2_000_000_000), 1..200),
        ) {
            let (mut bucket, start) = bucket(size, refill_time_ms, one_time_burst);
            let (mut granted, mut largest, mut now) = (0u128, 0u64, start);
            for (tokens, pause) in steps {
                now += Duration::from_nanos(pause);
                if bucket.consume(tokens, now) == Consumption::Granted {
                    granted += u128::from(tokens);
                    largest = largest.max(tokens);
                }
                let gained = (now - start).as_nanos() * u128::from(size) / (u128::from(refill_time_ms) * 1_000_000);
                let overdraft = u128::from(largest.saturating_sub(size));
                prop_assert!(granted <= u128::from(one_time_burst) + u128::from(size) + gained + overdraft);
            }
        }

        #[test]
        fn who_waits_as_told_is_granted_and_not_a_nanosecond_earlier(
            size in 1u64..=u64::MAX,
            refill_time_ms in 1u64..=u64::MAX,
            requests in prop::collection::vec(0u64..=u64::MAX, 1..20),
        ) {
            let (mut bucket, mut now) = bucket(size, refill_time_ms, 0);
            for tokens in requests {
                let Consumption::Wait(wait) = bucket.consume(tokens, now) else { continue };
                prop_assert!(wait > Duration::ZERO);
                // Clocks end somewhere; so does the test.
                let Some(then) = now.checked_add(wait).filter(|_| wait < Duration::from_secs(1 << 33)) else { break };
                prop_assert_ne!(bucket.clone().consume(tokens, then - Duration::from_nanos(1)), Consumption::Granted);
                prop_assert_eq!(bucket.consume(tokens, then), Consumption::Granted);
                now = then;
            }
        }
    }
}
