//! The papers' figures: which experiment corresponds to which.
//!
//! "Edge" is "Are Unikernels Ready for Serverless on the Edge?", "thesis" is "Exploring Unikernels for Serverless
//! Computing", "urunc" is "Sandboxing Functions for Efficient and Secure Multi-tenant Serverless Deployments".

use super::experiments::Experiment;

/// A figure of the papers, or more of the same, and what it shows here.
pub struct Figure {
    /// By paper and number.
    pub title: &'static str,
    /// What is measured.
    pub experiment: Experiment,
    /// How the names of its functions begin; all if empty.
    pub functions: &'static str,
    /// How the horizontal axis counts.
    pub axis: Axis,
}

/// How a horizontal axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Linear,
    /// Each step is twice the one before.
    PowersOfTwo,
}

const fn figure(title: &'static str, experiment: Experiment) -> Figure {
    Figure {
        title,
        experiment,
        functions: "",
        axis: Axis::Linear,
    }
}

const fn warm(title: &'static str, functions: &'static str) -> Figure {
    Figure {
        functions,
        ..figure(title, Experiment::Warm)
    }
}

const fn clients(title: &'static str, experiment: Experiment) -> Figure {
    Figure {
        axis: Axis::PowersOfTwo,
        ..figure(title, experiment)
    }
}

/// All of them, and what goes beyond them at the end.
pub const ALL: [Figure; 23] = [
    figure("Edge paper, section 3: what the harness adds", Experiment::Overhead),
    figure(
        "Edge paper, figure 3; urunc paper, figures 8 and 9: single cold starts",
        Experiment::ColdStart,
    ),
    figure(
        "Edge paper, figure 4; thesis, figure 5.2b; urunc paper, figures 10 and 12b: many cold starts at a time",
        Experiment::Burst,
    ),
    figure(
        "Edge paper, figure 5: instructions of a cold start",
        Experiment::StartInstructions,
    ),
    figure(
        "Beside edge paper, figure 5: processor time of a cold start",
        Experiment::StartCost,
    ),
    figure(
        "Edge paper, figure 6: instructions of an idle instance",
        Experiment::IdleInstructions,
    ),
    figure(
        "Beside edge paper, figure 6: processor time of an idle instance",
        Experiment::IdleCost,
    ),
    figure(
        "Edge paper, figure 7; thesis, figure 5.1: memory of idle instances",
        Experiment::Memory,
    ),
    warm("Edge paper, figure 8: Fibonacci", "fibonacci"),
    warm("Edge paper, figure 9: product of matrices", "matrix"),
    warm("Edge paper, figure 10: allocation of 50 MiB", "allocate"),
    clients("Edge paper, figure 11: requests a second", Experiment::Requests),
    clients(
        "Beside edge paper, figure 11: requests a second by wrk",
        Experiment::RequestsWrk,
    ),
    figure("Edge paper, figure 12: network throughput", Experiment::Throughput),
    warm("Edge paper, figure 13: file of 50 MiB", "read"),
    figure("Thesis, figure 5.2a: initialisation", Experiment::Initialisation),
    figure("Thesis, figure 5.2c: many warm calls at a time", Experiment::WarmBurst),
    figure("Thesis, figure 5.2d: cold against warm", Experiment::ColdAgainstWarm),
    figure("Thesis, figure 5.3: size of what is stored", Experiment::Artefact),
    figure(
        "Urunc paper, figures 11 and 12a: instances that answer",
        Experiment::Answered,
    ),
    warm("No-op, warm", "noop"),
    warm("FFT of 2^20 points", "fft"),
    warm("Unzip", "unzip"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::papers;

    #[test]
    fn every_experiment_and_every_published_value_is_in_a_figure() {
        for experiment in Experiment::ALL {
            assert!(
                ALL.iter().any(|figure| figure.experiment == experiment),
                "{experiment:?}"
            );
        }
        for published in papers::all() {
            let is_there =
                |figure: &&Figure| figure.experiment == published.experiment && figure.functions == published.function;
            assert_eq!(ALL.iter().filter(is_there).count(), 1, "{}", published.what);
        }
    }
}
