//! Guest time across a snapshot.
//!
//! Time goes on while a guest is a file: a restored one finds its clocks (kvmclock and the TSC alike) further by the
//! real time that has passed, as after a long pause. So its wall clock is right without anybody inside knowing, and its
//! timers that ran out meanwhile go off at once.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment of real time, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealTime(u64);

impl RealTime {
    /// Now.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// What has passed since then; nothing where the host's clock was put back behind it.
    pub fn passed(self) -> TimePassed {
        TimePassed {
            nanoseconds: Self::now().0.saturating_sub(self.0),
        }
    }
}

/// Real time between a save and a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimePassed {
    nanoseconds: u64,
}

impl TimePassed {
    /// In nanoseconds.
    pub fn nanoseconds(&self) -> u64 {
        self.nanoseconds
    }

    /// In ticks of a counter with that frequency.
    pub fn tsc_ticks(&self, khz: u32) -> u64 {
        let ticks = u128::from(self.nanoseconds) * u128::from(khz) / 1_000_000;
        ticks as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_follow_the_frequency() {
        let second = TimePassed {
            nanoseconds: 1_000_000_000,
        };
        assert_eq!(second.tsc_ticks(2_500_000), 2_500_000_000);
        assert_eq!(second.tsc_ticks(0), 0);
    }

    #[test]
    fn a_clock_put_back_is_no_time_passed() {
        assert_eq!(RealTime(u64::MAX).passed().nanoseconds(), 0);
    }
}
