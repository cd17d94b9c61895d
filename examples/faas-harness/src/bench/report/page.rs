//! The page.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use super::plot::{self, Bar, Line, escape};
use crate::bench::Experiment;
use crate::bench::cell::{Cell, Outcome, Point};
use crate::bench::figures::{self, Figure};
use crate::bench::papers::{self, Published};
use crate::bench::results::Measurement;
use crate::bench::statistics::Statistics;
use crate::function::StartStrategy;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:52rem;color:#223}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2.5rem}svg{width:100%;font:12px system-ui,sans-serif}\
.failed{color:#a22}dt{font-weight:600}dd{margin:0 0 .3rem 0}";

/// The whole page; it needs nothing beside itself.
pub(super) fn page(place: &str, measurements: &[&Measurement]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>The papers' experiments</title>\
         <style>{STYLE}</style>\n<h1>The papers' experiments on this host</h1>\n{}\
         <p>Blue or coloured: measured here; medians, with the 95 % confidence interval of the mean as whiskers. Grey: \
         the paper's own values, from another machine.</p>\n",
        host(place)
    );
    let highlights = super::highlights(measurements);
    if !highlights.is_empty() {
        let items: String = highlights
            .iter()
            .map(|line| format!("<li>{}</li>", escape(line)))
            .collect();
        let _ = writeln!(page, "<h2>In short</h2><ul>{items}</ul>");
    }
    for figure in &figures::ALL {
        let is_its_own = |measurement: &&Measurement| {
            let Cell {
                experiment, function, ..
            } = &measurement.cell;
            *experiment == figure.experiment && function.starts_with(figure.functions)
        };
        let of_it: Vec<&Measurement> = measurements.iter().copied().filter(is_its_own).collect();
        if !of_it.is_empty() {
            section(&mut page, figure, &of_it);
        }
        if figure.experiment == Experiment::ColdAgainstWarm {
            let differences = differences(measurements);
            if !differences.is_empty() {
                page += "<p>The same for so many calls at a time: the median of cold ones less that of warm ones.</p>";
                page += &plot::lines(&differences, figure.experiment.unit(), figure.axis);
            }
        }
    }
    page + "</html>\n"
}

fn section(page: &mut String, figure: &Figure, measurements: &[&Measurement]) {
    let experiment = figure.experiment;
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "<h2>{}</h2>\n<p><code>{}</code>: {}</p>\n",
        escape(figure.title),
        experiment.name(),
        experiment.meaning()
    );
    let varies = measurements.iter().any(|measurement| match &measurement.outcome {
        Outcome::Measured { series, .. } => series.iter().any(|point| point.x != 0),
        Outcome::Failed { .. } => false,
    });
    let plot = match varies {
        true => plot::lines(&lines(figure, measurements), experiment.unit(), figure.axis),
        false => plot::bars(&bars(figure, measurements), experiment.unit()),
    };
    page.push_str(&plot);
    for (reason, cells) in failures(measurements) {
        let _ = writeln!(
            page,
            "<p class=\"failed\">Failed: {}. {}</p>",
            escape(&in_words(&cells)),
            escape(&reason)
        );
    }
}

/// The values of the papers' own figure.
fn published(figure: &Figure) -> impl Iterator<Item = &'static Published> {
    papers::all()
        .filter(|published| published.experiment == figure.experiment && published.function == figure.functions)
}

/// Cold bursts less warm ones, of the same function and size.
fn differences(measurements: &[&Measurement]) -> Vec<Line> {
    let of = |experiment: Experiment| {
        let is_cold = move |measurement: &&&Measurement| {
            measurement.cell.experiment == experiment && measurement.cell.start == StartStrategy::Cold
        };
        measurements
            .iter()
            .filter(is_cold)
            .filter_map(|measurement| match &measurement.outcome {
                Outcome::Measured { series, .. } => Some((&measurement.cell.function, series)),
                Outcome::Failed { .. } => None,
            })
    };
    let difference = |(function, cold): (&String, &Vec<Point>)| {
        let (_, warm) = of(Experiment::WarmBurst).find(|(name, _)| *name == function)?;
        let warm_at = |x: u32| warm.iter().find(|point| point.x == x);
        let median = |point: &Point| Statistics::of(&point.samples).median;
        Some(Line {
            label: function.clone(),
            points: cold
                .iter()
                .filter_map(|point| Some((f64::from(point.x), median(point) - median(warm_at(point.x)?), 0.0)))
                .collect(),
            published: false,
        })
    };
    of(Experiment::Burst).filter_map(difference).collect()
}

/// The points at which there was something to measure.
fn measured(series: &[Point]) -> impl Iterator<Item = &Point> {
    series.iter().filter(|point| point.failed.is_none())
}

/// What failed, by why.
fn failures<'a>(measurements: &[&'a Measurement]) -> BTreeMap<String, Vec<&'a Cell>> {
    let mut failures: BTreeMap<String, Vec<&Cell>> = BTreeMap::new();
    for Measurement { cell, outcome } in measurements {
        let reason = match outcome {
            Outcome::Failed { reason } => Some(reason.clone()),
            Outcome::Measured { series, .. } => series
                .iter()
                .find_map(|point| Some(format!("With {} of them: {}", point.x, point.failed.as_ref()?))),
        };
        if let Some(reason) = reason {
            failures.entry(reason).or_default().push(cell);
        }
    }
    failures
}

/// Cells of one experiment, the function of each once with all its ways of starting.
fn in_words(cells: &[&Cell]) -> String {
    let mut starts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for cell in cells {
        starts.entry(&cell.function).or_default().push(cell.start.name());
    }
    let words = starts
        .iter()
        .map(|(function, starts)| format!("{function} ({})", starts.join(", ")));
    words.collect::<Vec<_>>().join(", ")
}

fn label(measurement: &Measurement) -> String {
    format!("{} ({})", measurement.cell.function, measurement.cell.start.name())
}

fn bars(figure: &Figure, measurements: &[&Measurement]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for measurement in measurements {
        if let Outcome::Measured { series, .. } = &measurement.outcome {
            bars.extend(measured(series).map(|point| {
                let statistics = Statistics::of(&point.samples);
                Bar {
                    label: label(measurement),
                    value: statistics.median,
                    spread: statistics.confidence,
                    published: false,
                }
            }));
        }
    }
    bars.extend(published(figure).map(|published| Bar {
        label: published.what.to_owned(),
        value: published.value,
        spread: 0.0,
        published: true,
    }));
    bars
}

fn lines(figure: &Figure, measurements: &[&Measurement]) -> Vec<Line> {
    let mut lines = Vec::new();
    for measurement in measurements {
        if let Outcome::Measured { series, .. } = &measurement.outcome {
            lines.push(Line {
                label: label(measurement),
                points: measured(series)
                    .map(|point| {
                        let statistics = Statistics::of(&point.samples);
                        (f64::from(point.x), statistics.median, statistics.confidence)
                    })
                    .collect(),
                published: false,
            });
        }
    }
    lines.extend(published(figure).map(|published| Line {
        label: format!("{}: {}", published.what, published.value),
        points: vec![(f64::from(published.x), published.value, 0.0)],
        published: true,
    }));
    lines
}

/// The host in a few words.
fn host(place: &str) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let meminfo = read("/proc/meminfo");
    let memory = meminfo
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("MemTotal:")
        .trim();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "<dl><dt>Place</dt><dd>{}</dd><dt>Processor</dt><dd>{}, {processors} available</dd><dt>Memory</dt><dd>{}</dd><dt>Kernel</dt><dd>{}</dd></dl>\n",
        escape(place),
        escape(model),
        escape(memory),
        escape(kernel.trim())
    )
}
