//! What is measured at a time, and what came out.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::experiments::Experiment;
use super::statistics::Statistics;
use crate::function::StartStrategy;

/// One experiment with one function, started one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// What is measured.
    pub experiment: Experiment,
    /// With which function.
    pub function: String,
    /// Behind which wall: a runtime, or where the micro-VM lives.
    pub home: String,
    /// How its instances come to life.
    pub start: StartStrategy,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.experiment.name(), self.function, self.start.name())
    }
}

/// Measurements at one value of what the experiment varies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The value: instances, clients; 0 where nothing is varied.
    pub x: u32,
    /// The measurements, in the experiment's unit, in their order.
    pub samples: Vec<f64>,
    /// Why there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Point {
    pub(super) fn new(x: u32, samples: Vec<f64>) -> Self {
        Self {
            x,
            samples,
            failed: None,
        }
    }

    pub(super) fn failed(x: u32, reason: String) -> Self {
        Self {
            x,
            samples: Vec::new(),
            failed: Some(reason),
        }
    }
}

/// What came out of a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was measured.
    Measured {
        /// Unit of the samples.
        unit: String,
        /// By ascending `x`.
        series: Vec<Point>,
    },
    /// It could not be.
    Failed {
        /// Why not.
        reason: String,
    },
}

impl Outcome {
    pub(super) fn measured(unit: &str, series: Vec<Point>) -> Self {
        Self::Measured {
            unit: unit.to_owned(),
            series,
        }
    }

    pub(super) fn failed(reason: String) -> Self {
        Self::Failed { reason }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { reason } => write!(f, "failed: {reason}"),
            Self::Measured { unit, series } => {
                for (number, point) in series.iter().enumerate() {
                    let separator = if number == 0 { "" } else { ", " };
                    let at = if point.x == 0 {
                        String::new()
                    } else {
                        format!("{}: ", point.x)
                    };
                    match &point.failed {
                        Some(reason) => write!(f, "{separator}{at}failed: {reason}")?,
                        None => write!(f, "{separator}{at}{:.3}", Statistics::of(&point.samples).median)?,
                    }
                }
                write!(f, " {unit}")
            }
        }
    }
}
