//! What the papers measured, to be drawn beside our own.

use super::experiments::Experiment;

/// A value of a paper.
pub struct Published {
    /// The experiment it corresponds to.
    pub experiment: Experiment,
    /// How the names of its functions begin, where the experiment has many.
    pub function: &'static str,
    /// What it was measured with.
    pub what: &'static str,
    /// Of what is varied; 0 where nothing is.
    pub x: u32,
    /// In the experiment's unit.
    pub value: f64,
}

const fn published(experiment: Experiment, what: &'static str, x: u32, value: f64) -> Published {
    Published {
        experiment,
        function: "",
        what,
        x,
        value,
    }
}

const fn warm(function: &'static str, what: &'static str, value: f64) -> Published {
    Published {
        function,
        ..published(Experiment::Warm, what, 0, value)
    }
}

/// "Are Unikernels Ready for Serverless on the Edge?", sections 3 and 4: an Intel i5-1135G7 with 8 logical processors
/// and 64 GiB. The no-op function in Go unless they say otherwise; medians of its data where they are known, means as
/// printed otherwise. Of its figures 5 and 9 the text has no values but ratios.
const EDGE: &[Published] = &[
    published(Experiment::Overhead, "their harness, mean", 0, 0.9),
    published(Experiment::ColdStart, "Nanos on Firecracker", 0, 110.0),
    published(Experiment::ColdStart, "OSv on Firecracker", 0, 110.0),
    published(Experiment::ColdStart, "Linux on Firecracker", 0, 392.0),
    published(Experiment::ColdStart, "Docker with runc", 0, 362.0),
    published(Experiment::ColdStart, "Docker with runsc", 0, 654.0),
    published(Experiment::ColdStart, "bare runc", 0, 119.0),
    published(Experiment::ColdStart, "bare runsc", 0, 291.0),
    published(Experiment::Burst, "Nanos on Firecracker", 100, 700.0),
    published(Experiment::Burst, "OSv on Firecracker", 100, 630.0),
    published(Experiment::Burst, "Linux on Firecracker", 100, 4300.0),
    published(Experiment::Burst, "Docker with runc", 100, 6500.0),
    published(Experiment::Burst, "Docker with runsc", 100, 7500.0),
    published(Experiment::Burst, "Node.js: Nanos and OSv", 100, 3600.0),
    published(Experiment::Burst, "Node.js: Linux on Firecracker", 100, 5900.0),
    published(Experiment::Burst, "Node.js: Docker with runc", 100, 6400.0),
    published(Experiment::Burst, "Node.js: Docker with runsc", 100, 16_700.0),
    published(Experiment::Memory, "Nanos, per instance", 1, 24.0),
    published(Experiment::Memory, "Nanos with Node.js, per instance", 1, 160.8),
    published(Experiment::Memory, "OSv, per instance", 1, 32.0),
    published(Experiment::Memory, "Linux, per instance", 1, 60.0),
    published(Experiment::Memory, "Docker with runc, per instance", 1, 3.9),
    published(Experiment::Memory, "Docker with runsc, per instance", 1, 24.7),
    warm("fibonacci", "Linux", 334.4),
    warm("fibonacci", "Nanos", 332.9),
    warm("fibonacci", "OSv", 336.3),
    warm("fibonacci", "runc", 325.7),
    warm("fibonacci", "runsc", 336.8),
    warm("allocate", "Linux, OSv, runsc", 40.0),
    warm("allocate", "Nanos", 56.0),
    warm("read", "runc", 87.0),
    warm("read", "Linux", 123.0),
    warm("read", "runsc, about", 160.0),
    warm("read", "OSv", 181.0),
    warm("read", "Nanos", 199.0),
    warm("allocate", "runc, less than", 20.0),
    published(Experiment::Requests, "OSv, its best", 0, 44_793.0),
    published(Experiment::Requests, "Linux, its best", 0, 24_621.0),
    published(Experiment::Throughput, "Nanos", 0, 271.0),
    published(Experiment::Throughput, "runsc, about", 0, 180.0),
    published(Experiment::IdleInstructions, "runsc", 0, 50.0),
    published(Experiment::IdleInstructions, "Linux", 0, 80.0),
    published(Experiment::IdleInstructions, "Nanos", 0, 250.0),
    published(Experiment::IdleInstructions, "OSv", 0, 9000.0),
    published(Experiment::RequestsWrk, "OSv, its best, by hey", 0, 44_793.0),
];

/// "Exploring Unikernels for Serverless Computing", chapter 5: two processors with 24 cores each and 64 GB. Its other
/// figures have no numbers in the text.
const THESIS: &[Published] = &[
    published(Experiment::Memory, "thesis: Firecracker, per instance", 1, 43.0),
    published(Experiment::Memory, "thesis: runc, per instance", 1, 11.0),
];

/// "Sandboxing Functions for Efficient and Secure Multi-tenant Serverless Deployments", section 6: an AMD EPYC 7502P with
/// 128 GB, Kubernetes and Knative before the sandboxes.
const URUNC: &[Published] = &[
    published(Experiment::ColdStart, "urunc and runc by Knative, p99", 0, 1250.0),
    published(
        Experiment::ColdStart,
        "other sandboxes by Knative, p99, best",
        0,
        2230.0,
    ),
    published(
        Experiment::ColdStart,
        "other sandboxes by Knative, p99, worst",
        0,
        3910.0,
    ),
    published(Experiment::Answered, "urunc and runc, about", 500, 90.0),
];

/// All values of all papers.
pub fn all() -> impl Iterator<Item = &'static Published> {
    EDGE.iter().chain(THESIS).chain(URUNC)
}
