//! Median, percentile, and how sure the mean is.

use serde::Serialize;

/// The 97.5 % quantile of the normal distribution: 95 % of means lie within so many standard errors.
const NORMAL_95: f64 = 1.96;

/// A summary of samples, in their unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// How many there are.
    pub n: usize,
    /// Half of them are below.
    pub median: f64,
    /// 95 % of them are below.
    pub p95: f64,
    /// 99 % of them are below.
    pub p99: f64,
    /// Their mean.
    pub mean: f64,
    /// Half the width of the mean's 95 % confidence interval, by the normal approximation.
    pub confidence: f64,
}

impl Statistics {
    /// The summary of `samples`; all zeros of none.
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        if n == 0 {
            return Self::default();
        }
        let mean = sorted.iter().sum::<f64>() / n as f64;
        let squares: f64 = sorted.iter().map(|sample| (sample - mean).powi(2)).sum();
        // One sample says nothing of the spread.
        let variance = if n > 1 { squares / (n - 1) as f64 } else { 0.0 };
        Self {
            n,
            median: (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
            p95: percentile(&sorted, 0.95),
            p99: percentile(&sorted, 0.99),
            mean,
            confidence: NORMAL_95 * (variance / n as f64).sqrt(),
        }
    }
}

/// The nearest rank of sorted samples, of which there is at least one.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_that_of_the_samples() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let statistics = Statistics::of(&samples);
        assert_eq!((statistics.n, statistics.median), (100, 50.5));
        assert_eq!((statistics.p95, statistics.p99), (95.0, 99.0));
        assert!((statistics.mean - 50.5).abs() < 1e-9);
        assert!((statistics.confidence - 5.686_3).abs() < 1e-3);
    }

    #[test]
    fn few_samples_are_no_trouble() {
        assert_eq!(Statistics::of(&[]), Statistics::default());
        let one = Statistics::of(&[7.0]);
        assert_eq!((one.median, one.p95, one.mean, one.confidence), (7.0, 7.0, 7.0, 0.0));
        assert_eq!(Statistics::of(&[2.0, 1.0]).median, 1.5);
    }
}
