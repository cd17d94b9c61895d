//! What was measured: as a table, and as JSON, one object per line.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

/// Where a measurement was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Where {
    /// On the machine's own KVM.
    Kvm,
    /// In the emulated host, whose clock counts instructions.
    EmulatedIcount,
    /// On the machine itself, without its KVM.
    Host,
}

/// What a value is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Microseconds.
    Microseconds,
    /// Executed instructions, idle time left out.
    Instructions,
    /// Bytes.
    Bytes,
    /// A number of things.
    Count,
    /// How many times as much as something else.
    Ratio,
}

/// The samples of one metric of one case.
#[derive(Default)]
struct Samples {
    values: Vec<f64>,
    /// Idle time beside each value, in microseconds.
    idle: Vec<f64>,
}

/// All samples of a run.
pub(crate) struct Report {
    bench: String,
    place: Where,
    cases: BTreeMap<(String, String, &'static str), Samples>,
    failures: Vec<(String, String)>,
}

/// One line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    bench: &'a str,
    #[serde(rename = "where")]
    place: Where,
    host_kernel: &'a str,
    case: &'a str,
    metric: &'a str,
    unit: &'static str,
    #[serde(flatten)]
    figures: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_p50: Option<f64>,
}

#[derive(Serialize)]
struct Figures {
    n: usize,
    p50: f64,
    p95: f64,
    p99: f64,
    min: f64,
    max: f64,
}

impl Report {
    /// An empty report.
    pub(crate) fn new(bench: String, place: Where) -> Self {
        Self {
            bench,
            place,
            cases: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    /// Adds a span: instructions with the idle time beside them where instructions are counted, else real time, and
    /// processor time as a metric of its own.
    pub(crate) fn add_span(&mut self, case: &str, metric: &str, span: crate::clock::Span) {
        let real = span.real as f64 / 1000.0;
        match self.place {
            Where::EmulatedIcount => {
                let idle = span.real.saturating_sub(span.cpu) as f64 / 1000.0;
                self.add(case, metric, Unit::Instructions, span.cpu as f64, Some(idle));
            }
            Where::Kvm | Where::Host => {
                self.add(case, metric, Unit::Microseconds, real, None);
                self.add(
                    case,
                    &format!("{metric}_cpu"),
                    Unit::Microseconds,
                    span.cpu as f64 / 1000.0,
                    None,
                );
            }
        }
    }

    /// Adds a sample.
    pub(crate) fn add(&mut self, case: &str, metric: &str, unit: Unit, value: f64, idle: Option<f64>) {
        let unit = match unit {
            Unit::Microseconds => "us",
            Unit::Instructions => "instr",
            Unit::Bytes => "bytes",
            Unit::Count => "count",
            Unit::Ratio => "ratio",
        };
        let samples = self
            .cases
            .entry((case.to_owned(), metric.to_owned(), unit))
            .or_default();
        samples.values.push(value);
        samples.idle.extend(idle);
    }

    /// Notes that a case could not be measured here.
    pub(crate) fn failed(&mut self, case: &str, reason: String) {
        self.failures.push((case.to_owned(), reason));
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        for (case, reason) in &self.failures {
            println!("{case}: not measured: {reason}");
        }
        println!(
            "{:<40} {:<30} {:>6} {:>14} {:>14} {:>14} {:>12}",
            "case", "metric", "unit", "p50", "p99", "min", "idle p50 us"
        );
        for ((case, metric, unit), samples) in &self.cases {
            let figures = figures(&samples.values);
            let idle = match samples.idle.is_empty() {
                true => String::new(),
                false => format!("{:.0}", median(&samples.idle)),
            };
            println!(
                "{case:<40} {metric:<30} {unit:>6} {:>14.1} {:>14.1} {:>14.1} {idle:>12}",
                figures.p50, figures.p99, figures.min
            );
        }
    }

    /// Appends the lines to `path`.
    pub(crate) fn append_json(&self, path: &Path) -> anyhow::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        for ((case, metric, unit), samples) in &self.cases {
            let line = Line {
                bench: &self.bench,
                place: self.place,
                host_kernel: release.trim(),
                case,
                metric,
                unit,
                figures: figures(&samples.values),
                idle_p50: (!samples.idle.is_empty()).then(|| median(&samples.idle)),
            };
            writeln!(file, "{}", serde_json::to_string(&line)?)?;
        }
        for (case, reason) in &self.failures {
            let line = serde_json::json!({
                "bench": self.bench, "where": self.place, "host_kernel": release.trim(), "case": case, "failed": reason,
            });
            writeln!(file, "{line}")?;
        }
        Ok(())
    }
}

fn figures(values: &[f64]) -> Figures {
    let sorted = sorted(values);
    let at = |fraction: f64| sorted[((sorted.len() - 1) as f64 * fraction).round() as usize];
    Figures {
        n: sorted.len(),
        p50: at(0.5),
        p95: at(0.95),
        p99: at(0.99),
        min: at(0.0),
        max: at(1.0),
    }
}

fn median(values: &[f64]) -> f64 {
    figures(values).p50
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}
