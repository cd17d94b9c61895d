//! What was measured, for programs and for people: CSV, JSON, and one page with a plot for each experiment.

mod lines;
mod page;
mod plot;

use std::fs;
use std::io;
use std::path::Path;

use super::Experiment;
use super::cell::Outcome;
use super::results::Measurement;
use super::statistics::Statistics;
use crate::function::StartStrategy;

/// Writes `results.csv`, `results.json`, `bench.jsonl` and `report.html` into `folder`; `place` is the kind of host.
pub fn write(folder: &Path, place: &str, measurements: Vec<&Measurement>) -> io::Result<()> {
    fs::write(folder.join("bench.jsonl"), lines::lines(place, &measurements)?)?;
    fs::write(folder.join("results.csv"), csv(&measurements))?;
    fs::write(
        folder.join("results.json"),
        serde_json::to_string_pretty(&measurements)?,
    )?;
    fs::write(folder.join("report.html"), page::page(place, &measurements))
}

/// What the figures come to, in words.
pub fn highlights(measurements: &[&Measurement]) -> Vec<String> {
    let mut lines = overheads(measurements);
    lines.extend(ratios(measurements));
    lines
}

/// What the platform adds to a warm call.
fn overheads(measurements: &[&Measurement]) -> Vec<String> {
    let of = |measurement: &&Measurement| match &measurement.outcome {
        Outcome::Measured { series, .. } if measurement.cell.experiment == Experiment::Overhead => {
            let Statistics { n, median, p95, .. } = Statistics::of(&series.first()?.samples);
            let function = &measurement.cell.function;
            Some(format!(
                "{function}: the platform adds {median:.3} ms to a warm call (median of {n}; p95 {p95:.3} ms)"
            ))
        }
        _ => None,
    };
    measurements.iter().filter_map(of).collect()
}

/// How much sooner instances answer that were not started cold, in words.
fn ratios(measurements: &[&Measurement]) -> Vec<String> {
    let median = |function: &str, start: StartStrategy| {
        let found = measurements.iter().find(|measurement| {
            let cell = &measurement.cell;
            cell.experiment == Experiment::ColdStart && cell.function == function && cell.start == start
        });
        match &found?.outcome {
            Outcome::Measured { series, .. } => series.first().map(|point| Statistics::of(&point.samples).median),
            Outcome::Failed { .. } => None,
        }
    };
    let mut lines = Vec::new();
    for Measurement { cell, .. } in measurements {
        if cell.experiment != Experiment::ColdStart || cell.start == StartStrategy::Cold {
            continue;
        }
        let cold = median(&cell.function, StartStrategy::Cold);
        if let (Some(cold), Some(other)) = (cold, median(&cell.function, cell.start)) {
            lines.push(format!(
                "{} by {}: answers {:.1} times sooner than cold ({other:.2} ms against {cold:.2} ms)",
                cell.function,
                cell.start.name(),
                cold / other
            ));
        }
    }
    lines
}

fn csv(measurements: &[&Measurement]) -> String {
    let mut lines = String::from("experiment,function,start,x,unit,n,median,p95,p99,mean,confidence,failed\n");
    for Measurement { cell, outcome } in measurements {
        let key = format!("{},{},{}", cell.experiment.name(), cell.function, cell.start.name());
        match outcome {
            Outcome::Measured { unit, series } => {
                for point in series {
                    if let Some(reason) = &point.failed {
                        lines += &format!("{key},{},,,,,,,,{}\n", point.x, quoted(reason));
                        continue;
                    }
                    let Statistics {
                        n,
                        median,
                        p95,
                        p99,
                        mean,
                        confidence,
                    } = Statistics::of(&point.samples);
                    let x = point.x;
                    lines += &format!("{key},{x},{unit},{n},{median},{p95},{p99},{mean},{confidence},\n");
                }
            }
            Outcome::Failed { reason } => lines += &format!("{key},,,,,,,,,{}\n", quoted(reason)),
        }
    }
    lines
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cell::{Cell, Point};

    #[test]
    fn every_point_and_every_failure_has_its_line() {
        let cell = Cell {
            experiment: Experiment::Burst,
            function: "noop".to_owned(),
            home: "runc".to_owned(),
            start: StartStrategy::Cold,
        };
        let series = [10, 20].map(|x| Point::new(x, vec![1.0, 3.0]));
        let series = [series.as_slice(), &[Point::failed(30, "too many".to_owned())]].concat();
        let measured = Measurement {
            cell: cell.clone(),
            outcome: Outcome::measured("ms", series),
        };
        let failed = Measurement {
            cell,
            outcome: Outcome::failed("said \"no\"".to_owned()),
        };
        let csv = csv(&[&measured, &failed]);
        let lines: Vec<&str> = csv.lines().skip(1).collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("burst,noop,cold,10,ms,2,2,3,3,2,"), "{}", lines[0]);
        assert_eq!(lines[2], "burst,noop,cold,30,,,,,,,,\"too many\"");
        assert_eq!(lines[3], "burst,noop,cold,,,,,,,,,\"said \"\"no\"\"\"");
    }
}
