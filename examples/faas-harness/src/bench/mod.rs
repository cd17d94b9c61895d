//! `faas-harness bench`: the papers' experiments, each for every function and start strategy at hand.
//!
//! A *cell* is one experiment with one function and one start strategy. Cells are measured one after the other and
//! written down at once, so that a run that was cut short goes on where it stood. A cell that fails is written down with
//! its reason.

mod cell;
mod client;
mod experiments;
mod papers;
mod processor_time;
mod report;
mod results;
mod statistics;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::function::{FunctionSpec, StartStrategy};
use crate::platform::Platform;
use cell::{Cell, Outcome};
pub use experiments::Experiment;
use results::Results;

/// What is measured, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The experiments; all of them if empty.
    pub experiments: Vec<Experiment>,
    /// Only functions whose name contains this.
    pub only: String,
    /// How often each measurement is repeated.
    pub rounds: usize,
    /// The largest number of instances at a time.
    pub instances: u32,
    /// Where results and reports go.
    pub out: PathBuf,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            experiments: Vec::new(),
            only: String::new(),
            rounds: 20,
            instances: 100,
            out: PathBuf::from("faas-results"),
        }
    }
}

/// What experiments work with.
pub struct Laboratory {
    platform: Arc<Platform>,
    /// Where the platform listens.
    address: SocketAddr,
    rounds: usize,
    instances: u32,
}

/// Measures what `plan` says with the functions that are deployed, and writes the reports.
///
/// # Errors
/// The results cannot be written. Experiments that fail are among the results.
pub async fn run(platform: Arc<Platform>, address: SocketAddr, plan: &Plan) -> Result<()> {
    let mut results = Results::open(&plan.out).context("cannot open the results")?;
    let laboratory = Laboratory {
        platform,
        address,
        rounds: plan.rounds,
        instances: plan.instances,
    };
    let cells = laboratory.cells(plan);
    for (number, cell) in cells.iter().enumerate() {
        print!("[{}/{}] {cell}: ", number + 1, cells.len());
        std::io::stdout().flush()?;
        if results.has(cell) {
            println!("measured before");
            continue;
        }
        let outcome = laboratory.measure(cell).await;
        println!("{outcome}");
        results.add(cell.clone(), outcome)?;
    }
    report::write(&plan.out, results.all())?;
    println!("results, tables and plots: {}", plan.out.display());
    Ok(())
}

impl Laboratory {
    /// Every experiment with every function that it is meant for, however that can be started.
    fn cells(&self, plan: &Plan) -> Vec<Cell> {
        let wanted = |experiment: &&Experiment| plan.experiments.is_empty() || plan.experiments.contains(experiment);
        let functions = self.platform.functions();
        let mut cells = Vec::new();
        for experiment in Experiment::ALL.iter().filter(wanted) {
            for function in functions.iter().map(|function| function.spec()) {
                if !function.name.contains(&plan.only) || !experiment.is_for(&function.name) {
                    continue;
                }
                for start in experiment.strategies() {
                    cells.push(Cell {
                        experiment: *experiment,
                        function: function.name.clone(),
                        start: *start,
                    });
                }
            }
        }
        cells
    }

    async fn measure(&self, cell: &Cell) -> Outcome {
        match cell.experiment.run(self, cell).await {
            Ok(series) => Outcome::measured(cell.experiment.unit(), series),
            Err(error) => Outcome::failed(format!("{error:#}")),
        }
    }

    /// Deploys the function of `cell` anew, under a name of its own, changed by `change`. Dropping the answer removes it.
    fn deploy(&self, cell: &Cell, change: impl FnOnce(&mut FunctionSpec)) -> Result<Deployed<'_>> {
        let function = self.platform.function(&cell.function);
        let mut spec = function.context("the function has gone")?.spec().clone();
        spec.name = format!("bench-{}", cell.experiment.name());
        spec.start = cell.start;
        spec.scale.max = self.instances;
        spec.scale.queue = self.instances as usize;
        // Nothing but the experiment itself takes instances away.
        spec.scale.idle_ms = u64::MAX;
        spec.scale.start_ms = 120_000;
        spec.scale.queue_ms = 120_000;
        spec.timeout_ms = 120_000;
        change(&mut spec);
        let name = spec.name.clone();
        self.platform.deploy(spec)?;
        Ok(Deployed {
            platform: &self.platform,
            name,
        })
    }
}

/// A function that is there for one measurement.
struct Deployed<'a> {
    platform: &'a Arc<Platform>,
    name: String,
}

impl Deployed<'_> {
    /// Where its clients call it.
    fn path(&self) -> String {
        format!("/function/{}", self.name)
    }

    fn function(&self) -> Result<Arc<crate::platform::Function>> {
        self.platform.function(&self.name).context("the function has gone")
    }
}

impl Drop for Deployed<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.platform.remove(&self.name) {
            eprintln!("faas-harness: {error}");
        }
    }
}

/// Ways of starting an instance that experiments compare.
const ALL_STRATEGIES: &[StartStrategy] = &[StartStrategy::Cold, StartStrategy::Fork, StartStrategy::Restore];
