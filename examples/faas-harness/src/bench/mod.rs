//! `faas-harness bench`: the papers' experiments, each for every function and start strategy at hand.
//!
//! A *cell* is one experiment with one function and one start strategy. Cells are measured one after the other and
//! written down at once, so that a run that was cut short goes on where it stood. A cell that fails is written down with
//! its reason.

mod cell;
mod client;
mod experiments;
mod figures;
mod meter;
mod papers;
mod report;
mod results;
mod statistics;
mod tree_counter;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use sandbox::spec::{GuestSpec, Isolation};

use crate::function::{FunctionSpec, StartStrategy};
use crate::output::{complain, say};
use crate::platform::Platform;
use cell::{Cell, Outcome};
pub use experiments::Experiment;
pub use meter::Meters;
use results::Results;

/// How long it may take until all stand by that are to.
const STANDING_BY_PATIENCE: Duration = Duration::from_secs(120);

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
    /// The largest number of clients of one instance, which grows by powers of two from one.
    pub clients: u32,
    /// Requests of a measurement by `hey`.
    pub requests: usize,
    /// Seconds of a measurement by `wrk`.
    pub seconds: u32,
    /// Whether nothing else runs on this host, so that its processor time is that of the experiments.
    pub whole_host: bool,
    /// Whether its clock advances by a nanosecond with each instruction.
    pub counting_clock: bool,
    /// What kind of host this is, for readers of the results.
    pub place: String,
    /// Where results and reports go.
    pub out: PathBuf,
}

impl Plan {
    /// Makes it so short that all of it is seen within minutes.
    pub fn shorten(&mut self) {
        self.rounds = 3;
        self.instances = 10;
        self.clients = 16;
        self.requests = 512;
        self.seconds = 1;
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            experiments: Vec::new(),
            only: String::new(),
            rounds: 20,
            instances: 100,
            clients: 4096,
            // As in the edge paper.
            requests: 1 << 15,
            seconds: 5,
            whole_host: false,
            counting_clock: false,
            place: "kvm".to_owned(),
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
    clients: u32,
    requests: usize,
    seconds: u32,
    meters: Meters,
}

/// Measures what `plan` says with the functions that are deployed, and writes the reports.
///
/// # Errors
/// The results cannot be written. Experiments that fail are among the results.
pub async fn run(platform: Arc<Platform>, address: SocketAddr, plan: &Plan, meters: Meters) -> Result<()> {
    let mut results = Results::open(&plan.out).context("cannot open the results")?;
    let laboratory = Laboratory {
        platform,
        address,
        rounds: plan.rounds,
        instances: plan.instances,
        clients: plan.clients,
        requests: plan.requests,
        seconds: plan.seconds,
        meters,
    };
    if let Err(error) = laboratory.measure_all(plan, &mut results).await {
        // Nobody reads any more what is said: what was measured so far is kept all the same.
        return match is_broken_pipe(&error) {
            true => Ok(report::write(&plan.out, &plan.place, results.all())?),
            false => Err(error),
        };
    }
    report::write(&plan.out, &plan.place, results.all())?;
    let highlights: String = report::highlights(&results.all())
        .iter()
        .map(|line| format!("{line}\n"))
        .collect();
    // Nothing is lost on who has gone by now.
    let _ = say(format_args!(
        "{highlights}results, tables and plots: {}\n",
        plan.out.display()
    ));
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// How far a run is, as a bar.
fn progress(number: usize, all: usize) -> String {
    const WIDTH: usize = 20;
    let done = number * WIDTH / all.max(1);
    format!("[{}{}] {number}/{all}", "#".repeat(done), ".".repeat(WIDTH - done))
}

impl Laboratory {
    /// Every experiment with every function that it is meant for, however that can be started.
    fn cells(&self, plan: &Plan) -> Vec<Cell> {
        let wanted = |experiment: &&Experiment| plan.experiments.is_empty() || plan.experiments.contains(experiment);
        let functions = self.platform.functions();
        let mut cells = Vec::new();
        for experiment in Experiment::ALL.iter().filter(wanted) {
            for function in functions.iter().map(|function| function.spec()) {
                let mut only = plan.only.split(',');
                if !only.any(|only| function.name.contains(only)) || !experiment.is_for(&function.name) {
                    continue;
                }
                for start in experiment.strategies() {
                    cells.push(Cell {
                        experiment: *experiment,
                        function: function.name.clone(),
                        home: home(function),
                        start: *start,
                    });
                }
            }
        }
        cells
    }

    /// Measures every cell of `plan` that was not measured before.
    async fn measure_all(&self, plan: &Plan, results: &mut Results) -> Result<()> {
        let cells = self.cells(plan);
        for (number, cell) in cells.iter().enumerate() {
            say(format_args!("{} {cell}: ", progress(number + 1, cells.len())))?;
            if results.has(cell) {
                say(format_args!("measured before\n"))?;
                continue;
            }
            let outcome = self.measure(cell).await;
            results.add(cell.clone(), outcome.clone())?;
            say(format_args!("{outcome}\n"))?;
        }
        Ok(())
    }

    async fn measure(&self, cell: &Cell) -> Outcome {
        match cell.experiment.run(self, cell).await {
            Ok(series) => Outcome::measured(cell.experiment.unit(), series),
            Err(error) => Outcome::failed(format!("{error:#}")),
        }
    }

    /// The function of `cell` as it was deployed.
    fn spec(&self, cell: &Cell) -> Result<FunctionSpec> {
        let function = self.platform.function(&cell.function);
        Ok(function.context("the function has gone")?.spec().clone())
    }

    /// The same for experiments with starts: no instance serves twice, and what they are made from is there.
    async fn deploy_for_starts(&self, cell: &Cell) -> Result<Deployed<'_>> {
        let function = self.deploy(cell, |spec| spec.scale.reuse = false)?;
        if cell.start != StartStrategy::Cold {
            client::get(self.address, &function.path()).await?;
            function.function()?.pool().settled().await;
            function.stood_by().await?;
        }
        Ok(function)
    }

    /// Deploys the function of `cell` anew, under a name of its own, changed by `change`. Dropping the answer removes it.
    fn deploy(&self, cell: &Cell, change: impl FnOnce(&mut FunctionSpec)) -> Result<Deployed<'_>> {
        let mut spec = self.spec(cell)?;
        if matches!(spec.sandbox.guest, GuestSpec::Linux(_)) {
            self.platform.runs_linux()?;
        }
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

/// Behind which wall a function's instances are.
fn home(function: &FunctionSpec) -> String {
    match (&function.sandbox.guest, function.sandbox.isolation) {
        (GuestSpec::Container(container), _) => container.runtime.clone(),
        (_, Isolation::InProcess) => "in_process".to_owned(),
        (_, Isolation::Worker) => "worker".to_owned(),
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

    /// Starts `count` further instances, ahead of requests: one after the other, since many guests that boot on few
    /// processors take more of their time than one that has them alone.
    async fn boot(&self, count: u32) -> Result<()> {
        for _ in 0..count {
            let booted = self.function()?.pool().pre_boot(1).await;
            let booted = booted.map_err(|error| anyhow!("{error}"))?;
            ensure!(booted == 1, "there is no room for one more instance");
        }
        Ok(())
    }

    /// Waits until all stand by that are to; at once where none are.
    async fn stood_by(&self) -> Result<()> {
        let function = self.function()?;
        let full = tokio::task::spawn_blocking(move || function.await_standing_by(STANDING_BY_PATIENCE)).await?;
        match full {
            true => Ok(()),
            false => bail!("not all stand by that are to"),
        }
    }

    fn function(&self) -> Result<Arc<crate::platform::Function>> {
        self.platform.function(&self.name).context("the function has gone")
    }
}

impl Drop for Deployed<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.platform.remove(&self.name) {
            complain(format_args!("{error}"));
        }
    }
}

/// Ways of starting an instance that experiments compare.
const ALL_STRATEGIES: &[StartStrategy] = &[
    StartStrategy::Cold,
    StartStrategy::Fork,
    StartStrategy::Restore,
    StartStrategy::Pool,
];
