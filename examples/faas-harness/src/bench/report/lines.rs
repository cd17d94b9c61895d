//! One JSON object a line, as all benchmarks of the project write them.

use std::io;

use serde::Serialize;

use crate::bench::cell::Outcome;
use crate::bench::results::Measurement;
use crate::bench::statistics::Statistics;

#[derive(Default, Serialize)]
struct Line<'a> {
    bench: &'static str,
    #[serde(rename = "where")]
    place: &'a str,
    host_kernel: &'a str,
    case: String,
    metric: &'a str,
    unit: &'a str,
    /// Of what is varied: instances, clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<u32>,
    n: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p95: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<&'a str>,
}

/// All measurements.
pub(super) fn lines(place: &str, measurements: &[&Measurement]) -> io::Result<String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut text = String::new();
    for Measurement { cell, outcome } in measurements {
        let line = || Line {
            bench: "papers",
            place,
            host_kernel: kernel.trim(),
            case: format!("sdk/{}/{}/{}", cell.function, cell.home, cell.start.name()),
            metric: cell.experiment.name(),
            unit: cell.experiment.unit(),
            ..Line::default()
        };
        let mut add = |line: Line<'_>| -> io::Result<()> {
            text += &serde_json::to_string(&line)?;
            text.push('\n');
            Ok(())
        };
        match outcome {
            Outcome::Failed { reason } => add(Line {
                failed: Some(reason),
                ..line()
            })?,
            Outcome::Measured { series, .. } => {
                for point in series {
                    if let Some(reason) = &point.failed {
                        add(Line {
                            x: Some(point.x),
                            failed: Some(reason),
                            ..line()
                        })?;
                        continue;
                    }
                    let statistics = Statistics::of(&point.samples);
                    add(Line {
                        x: (point.x != 0).then_some(point.x),
                        n: statistics.n,
                        p50: Some(statistics.median),
                        p95: Some(statistics.p95),
                        p99: Some(statistics.p99),
                        ..line()
                    })?;
                }
            }
        }
    }
    Ok(text)
}
