//! What is counted and timed of a function, and its forms for people and for Prometheus.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

/// Times of which average, deviation and percentiles are made: the last ones.
const KEPT_TIMES: usize = 10_000;
/// Upper bounds of the histogram's buckets, in seconds.
const BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// A function's counters and times.
#[derive(Debug, Default)]
pub struct FunctionMetrics {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Answers by status code.
    answers: BTreeMap<u16, u64>,
    started: u64,
    failed_starts: u64,
    initialisation: Times,
    execution: Times,
}

/// Times of one kind, all of them as a histogram and the last ones as they are.
#[derive(Clone, Debug, Default)]
struct Times {
    last: VecDeque<Duration>,
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: Duration,
}

/// A summary of times, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many there were.
    pub count: u64,
    /// Their mean.
    pub average: f64,
    /// Their standard deviation.
    pub standard_deviation: f64,
    /// Their 95th percentile.
    pub p95: f64,
    /// The longest.
    pub maximum: f64,
}

/// What `/stats` says of one function's times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summaries {
    /// From the call of the SDK to a ready instance.
    pub initialisation: Summary,
    /// From a request's arrival at an instance to the end of its answer.
    pub execution: Summary,
}

impl FunctionMetrics {
    /// A request was answered with `status`.
    pub fn answered(&self, status: u16) {
        *self.lock().answers.entry(status).or_default() += 1;
    }

    /// An instance did its work.
    pub fn executed(&self, time: Duration) {
        self.lock().execution.add(time);
    }

    /// An instance got ready.
    pub fn started(&self, time: Duration) {
        let mut inner = self.lock();
        inner.started += 1;
        inner.initialisation.add(time);
    }

    /// An instance did not come to life.
    pub fn start_failed(&self) {
        self.lock().failed_starts += 1;
    }

    /// How many requests were answered.
    pub fn invocations(&self) -> u64 {
        self.lock().answers.values().sum()
    }

    /// The summaries of the last times.
    pub fn summaries(&self) -> Summaries {
        let inner = self.lock();
        Summaries {
            initialisation: inner.initialisation.summary(),
            execution: inner.execution.summary(),
        }
    }

    /// The last times from the SDK's call to a ready instance.
    pub fn initialisations(&self) -> Vec<Duration> {
        self.lock().initialisation.last.iter().copied().collect()
    }

    /// Forgets all times, so that an experiment begins anew.
    pub fn forget_times(&self) {
        let mut inner = self.lock();
        inner.initialisation = Times::default();
        inner.execution = Times::default();
    }

    /// Appends the lines of Prometheus' text format; `exposition` has the heads.
    pub fn expose(&self, function: &str, exposition: &mut Exposition) {
        let inner = self.lock();
        for (status, count) in &inner.answers {
            let labels = format!("function=\"{function}\",code=\"{status}\"");
            exposition.sample("faas_invocations_total", &labels, *count);
        }
        let labels = format!("function=\"{function}\"");
        exposition.sample("faas_instance_starts_total", &labels, inner.started);
        exposition.sample("faas_instance_start_failures_total", &labels, inner.failed_starts);
        exposition.histogram("faas_initialisation_seconds", &labels, &inner.initialisation);
        exposition.histogram("faas_execution_seconds", &labels, &inner.execution);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Times {
    fn add(&mut self, time: Duration) {
        if self.last.len() == KEPT_TIMES {
            self.last.pop_front();
        }
        self.last.push_back(time);
        self.count += 1;
        self.sum += time;
        let seconds = time.as_secs_f64();
        if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket] += 1;
        }
    }

    fn summary(&self) -> Summary {
        let mut times: Vec<f64> = self.last.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        times.sort_by(f64::total_cmp);
        let Some(maximum) = times.last().copied() else {
            return Summary::default();
        };
        let count = times.len() as f64;
        let average = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - average).powi(2)).sum::<f64>() / count;
        Summary {
            count: self.count,
            average,
            standard_deviation: variance.sqrt(),
            p95: percentile(&times, 0.95),
            maximum,
        }
    }
}

/// The nearest-rank percentile of sorted times.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// A page in Prometheus' text format: each metric once, with all its samples behind it.
#[derive(Debug, Default)]
pub struct Exposition {
    metrics: BTreeMap<&'static str, (&'static str, String)>,
}

impl Exposition {
    /// Says what a metric is.
    fn help(name: &str) -> &'static str {
        match name {
            "faas_execution_seconds" => "From a request's arrival at an instance to the end of its answer.",
            "faas_initialisation_seconds" => "From the call of the SDK to a ready instance.",
            "faas_instance_start_failures_total" => "Instances that did not come to life.",
            "faas_instance_starts_total" => "Instances that got ready.",
            "faas_instances" => "Instances by what they do.",
            "faas_invocations_total" => "Requests to the function by the status of their answer.",
            "faas_requests_waiting" => "Requests that wait for an instance.",
            "faas_sandboxes_standing_by" => "Sandboxes that are made ahead of time and do not run.",
            _ => "A count of this platform.",
        }
    }

    /// Adds a sample of a counter or, where the name does not end in `_total`, of a gauge.
    pub fn sample(&mut self, name: &'static str, labels: &str, value: u64) {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let lines = &mut self.metrics.entry(name).or_insert((kind, String::new())).1;
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{name}{{{labels}}} {value}");
    }

    fn histogram(&mut self, name: &'static str, labels: &str, times: &Times) {
        let lines = &mut self.metrics.entry(name).or_insert(("histogram", String::new())).1;
        let mut below = 0;
        for (bound, count) in BUCKETS.iter().zip(times.buckets) {
            below += count;
            let _ = writeln!(lines, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(lines, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", times.count);
        let _ = writeln!(lines, "{name}_sum{{{labels}}} {}", times.sum.as_secs_f64());
        let _ = writeln!(lines, "{name}_count{{{labels}}} {}", times.count);
    }

    /// The whole page.
    pub fn page(&self) -> String {
        let metrics = self.metrics.iter();
        metrics
            .map(|(name, (kind, lines))| format!("# HELP {name} {}\n# TYPE {name} {kind}\n{lines}", Self::help(name)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_that_of_the_times_given() {
        let metrics = FunctionMetrics::default();
        for milliseconds in 1..=100 {
            metrics.executed(Duration::from_millis(milliseconds));
        }
        let summary = metrics.summaries().execution;
        assert_eq!(summary.count, 100);
        assert!((summary.average - 50.5).abs() < 1e-9);
        assert!((summary.standard_deviation - 28.866_070_047_722_12).abs() < 1e-9);
        assert!((summary.p95 - 95.0).abs() < 1e-9);
        assert!((summary.maximum - 100.0).abs() < 1e-9);
        metrics.forget_times();
        assert_eq!(metrics.summaries(), Summaries::default());
    }

    #[test]
    fn the_page_names_each_metric_once() {
        let mut exposition = Exposition::default();
        for function in ["a", "b"] {
            let metrics = FunctionMetrics::default();
            metrics.answered(200);
            metrics.started(Duration::from_millis(3));
            metrics.expose(function, &mut exposition);
        }
        let page = exposition.page();
        assert_eq!(page.matches("# TYPE faas_invocations_total counter\n").count(), 1);
        assert!(page.contains("faas_invocations_total{function=\"a\",code=\"200\"} 1\n"));
        assert!(page.contains("faas_initialisation_seconds_bucket{function=\"b\",le=\"0.0025\"} 0\n"));
        assert!(page.contains("faas_initialisation_seconds_bucket{function=\"b\",le=\"0.005\"} 1\n"));
        assert!(page.contains("faas_initialisation_seconds_bucket{function=\"b\",le=\"+Inf\"} 1\n"));
    }
}
