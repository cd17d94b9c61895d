//! The experiments, by the figures of the papers that they correspond to.

mod artefact;
mod idle;
mod load;
mod scaling;
mod start;
mod warm;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::cell::{Cell, Point};
use super::{ALL_STRATEGIES, Laboratory};
use crate::function::StartStrategy;

/// An experiment. "Edge" is "Are Unikernels Ready for Serverless on the Edge?", "thesis" is "Exploring Unikernels for
/// Serverless Computing", "urunc" is "Sandboxing Functions for Efficient and Secure Multi-tenant Serverless Deployments".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Experiment {
    /// From a request to its answer when there is no instance. Edge, figure 3.
    ColdStart,
    /// The mean of that, for so many requests at a time. Edge, figure 4; thesis, 5.2.
    Burst,
    /// Processor time of a cold start, of this process and all that it starts.
    StartCost,
    /// Processor time of an idle instance within a second.
    IdleCost,
    /// Instructions of a cold start, by a counter of the processor or a clock that counts. Edge, figure 5.
    StartInstructions,
    /// Instructions of an idle instance within a second. Edge, figure 6.
    IdleInstructions,
    /// Memory that is no longer available, for so many idle instances. Edge, figure 7; thesis, figure 5.1.
    Memory,
    /// From a request to its answer when an instance stands by. Thesis, 5.2; edge, figures 8 to 10 and 13 for the
    /// functions that compute, allocate and read.
    Warm,
    /// What the platform adds to a warm call, against a call of the instance itself. Edge, section 3.
    Overhead,
    /// Requests a second of one instance, for so many clients. Edge, figure 11.
    Requests,
    /// The same by another load generator.
    RequestsWrk,
    /// Bytes a second of a file of 50 MiB, for four clients. Edge, figure 12.
    Throughput,
    /// From the SDK's call to a ready instance, for so many requests at a time. Thesis, figure 5.2a.
    Initialisation,
    /// From a request to its answer, for so many requests at a time and as many instances that stand by. Thesis, figure
    /// 5.2c.
    WarmBurst,
    /// A cold call less the warm one that follows it. Thesis, figure 5.2d.
    ColdAgainstWarm,
    /// How many of so many requests are answered while all their instances stay. Urunc, figures 11 and 12a.
    Answered,
    /// What is stored of the function. Thesis, figure 5.3.
    Artefact,
}

impl Experiment {
    /// All of them, the short ones first.
    pub const ALL: [Self; 17] = [
        Self::Artefact,
        Self::Overhead,
        Self::ColdStart,
        Self::ColdAgainstWarm,
        Self::Warm,
        Self::StartCost,
        Self::IdleCost,
        Self::StartInstructions,
        Self::IdleInstructions,
        Self::Memory,
        Self::Burst,
        Self::Initialisation,
        Self::WarmBurst,
        Self::Answered,
        Self::Requests,
        Self::RequestsWrk,
        Self::Throughput,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ColdStart => "cold-start",
            Self::Burst => "burst",
            Self::StartCost => "start-cost",
            Self::IdleCost => "idle-cost",
            Self::StartInstructions => "start-instructions",
            Self::IdleInstructions => "idle-instructions",
            Self::Memory => "memory",
            Self::Warm => "warm",
            Self::Overhead => "overhead",
            Self::Requests => "requests",
            Self::RequestsWrk => "requests-wrk",
            Self::Throughput => "throughput",
            Self::Initialisation => "initialisation",
            Self::WarmBurst => "warm-burst",
            Self::ColdAgainstWarm => "cold-against-warm",
            Self::Answered => "answered",
            Self::Artefact => "artefact",
        }
    }

    /// The experiment of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|experiment| experiment.name() == name)
    }

    /// What it tells, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::ColdStart => {
                "From a request to its answer when there is no instance (edge paper, figure 3; urunc paper, figures 8 \
                 and 9)."
            }
            Self::Burst => {
                "From a request to its answer for so many requests at a time, each with an instance of its own (edge \
                 paper, figure 4; thesis, figure 5.2b; urunc paper, figures 10 and 12b)."
            }
            Self::StartCost => {
                "Processor time of a cold start, a call and the end, of the platform with its guests and whatever else \
                 it starts."
            }
            Self::IdleCost => "Processor time of an idle instance within a second.",
            Self::StartInstructions => {
                "Millions of instructions of a cold start, a call and the end, of the platform with its guests and \
                 whatever else it starts, in user space and in the kernel (edge paper, figure 5)."
            }
            Self::IdleInstructions => {
                "Thousands of instructions of an idle instance within a second (edge paper, figure 6)."
            }
            Self::Memory => {
                "Memory that is no longer available for so many idle instances (edge paper, figure 7; thesis, figure 5.1)."
            }
            Self::Warm => {
                "From a request to its answer when an instance stands by (thesis, section 5.2; edge paper, figures 8 to \
                 10 and 13)."
            }
            Self::Overhead => {
                "What the platform adds to a warm call: a call through it less a call of the instance itself, in turn \
                 (edge paper, section 3)."
            }
            Self::Requests => "Requests a second of one instance, for so many clients (edge paper, figure 11); by hey.",
            Self::RequestsWrk => "The same by wrk, which keeps its connections busy for a time instead of a number.",
            Self::Throughput => "A file of 50 MiB, fetched by four clients of one instance (edge paper, figure 12).",
            Self::Initialisation => {
                "From the call of the SDK to a ready instance, for so many requests at a time (thesis, figure 5.2a)."
            }
            Self::WarmBurst => {
                "From a request to its answer for so many requests at a time, each of which finds an instance that \
                 stands by (thesis, figure 5.2c)."
            }
            Self::ColdAgainstWarm => "A cold call less the warm call that follows it (thesis, figure 5.2d).",
            Self::Answered => {
                "How many of so many requests at a time are answered while all their instances stay (urunc paper, \
                 figures 11 and 12a)."
            }
            Self::Artefact => "What is stored of the function: program and files of its own (thesis, figure 5.3).",
        }
    }

    /// What its samples are in.
    pub fn unit(self) -> &'static str {
        match self {
            Self::ColdStart
            | Self::Burst
            | Self::StartCost
            | Self::Warm
            | Self::Overhead
            | Self::Initialisation
            | Self::WarmBurst
            | Self::ColdAgainstWarm => "ms",
            Self::IdleCost => "us/s",
            Self::StartInstructions => "M instr",
            Self::IdleInstructions => "k instr/s",
            Self::Memory | Self::Artefact => "MiB",
            Self::Answered => "%",
            Self::Requests | Self::RequestsWrk => "1/s",
            Self::Throughput => "MiB/s",
        }
    }

    /// Whether it means anything for this function: what costs to start, to idle and to call is asked of those that do
    /// nothing.
    pub(super) fn is_for(self, function: &str) -> bool {
        let does_nothing = function.starts_with("noop") || function.starts_with("hello");
        match self {
            Self::Warm => !function.starts_with("file"),
            Self::Artefact => does_nothing || function.starts_with("unzip"),
            Self::Throughput => function.starts_with("file"),
            _ => does_nothing,
        }
    }

    /// Ways of starting that it compares.
    pub(super) fn strategies(self) -> &'static [StartStrategy] {
        match self {
            Self::ColdStart
            | Self::Burst
            | Self::Initialisation
            | Self::StartCost
            | Self::StartInstructions
            | Self::Memory
            | Self::Answered
            | Self::ColdAgainstWarm => ALL_STRATEGIES,
            _ => &[StartStrategy::Cold],
        }
    }

    pub(super) async fn run(self, laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
        match self {
            Self::ColdStart => start::cold(laboratory, cell).await,
            Self::Burst => scaling::burst(laboratory, cell).await,
            Self::StartCost => start::cost(laboratory, cell, laboratory.meters.time()?).await,
            Self::IdleCost => idle::cost(laboratory, cell, laboratory.meters.time()?).await,
            Self::StartInstructions => start::cost(laboratory, cell, laboratory.meters.instructions()?).await,
            Self::IdleInstructions => idle::cost(laboratory, cell, laboratory.meters.instructions()?).await,
            Self::Memory => idle::memory(laboratory, cell).await,
            Self::Warm => warm::calls(laboratory, cell).await,
            Self::Overhead => warm::overhead(laboratory, cell).await,
            Self::Requests => load::requests(laboratory, cell, load::Generator::Hey).await,
            Self::RequestsWrk => load::requests(laboratory, cell, load::Generator::Wrk).await,
            Self::Throughput => load::throughput(laboratory, cell).await,
            Self::Initialisation => scaling::initialisation(laboratory, cell).await,
            Self::WarmBurst => scaling::warm_burst(laboratory, cell).await,
            Self::ColdAgainstWarm => warm::against_cold(laboratory, cell).await,
            Self::Answered => scaling::answered(laboratory, cell).await,
            Self::Artefact => artefact::size(laboratory, cell),
        }
    }
}

/// A series that varies nothing.
fn single(samples: Vec<f64>) -> Vec<Point> {
    vec![Point::new(0, samples)]
}

/// Measures at each of `scales`, which ascend, until one fails: that is where a series ends, with the reason. Where the
/// first fails, all of it has.
async fn ascending(
    scales: impl Iterator<Item = u32>,
    mut measure: impl AsyncFnMut(u32) -> Result<Vec<f64>>,
) -> Result<Vec<Point>> {
    let mut series = Vec::new();
    for x in scales {
        match measure(x).await {
            Ok(samples) => series.push(Point::new(x, samples)),
            Err(error) if series.is_empty() => return Err(error),
            Err(error) => {
                series.push(Point::failed(x, format!("{error:#}")));
                break;
            }
        }
    }
    Ok(series)
}

fn milliseconds(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
