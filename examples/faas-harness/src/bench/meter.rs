//! What the processor does for the instances: its time, and its instructions.

use std::fs;
use std::io;

use anyhow::{Context, Result, anyhow};

use super::Plan;
use super::tree_counter::{Event, TreeCounter};

/// The counters of this process and of all that it starts. To be made before its first thread.
#[derive(Debug)]
pub struct Meters {
    time: io::Result<TreeCounter>,
    instructions: io::Result<TreeCounter>,
    /// Nothing else runs on this host, so that all of its processor time is that of the experiments.
    whole_host: bool,
    /// Its clock advances by a nanosecond with each instruction.
    counting_clock: bool,
}

/// Something that is read before and after.
#[derive(Clone, Copy, Debug)]
pub enum Meter<'a> {
    /// All processes that this one has started.
    Tree(&'a TreeCounter),
    /// The time of everything that runs on this host, kernel threads included, in nanoseconds.
    Host,
}

impl Meters {
    /// Opens what there is; what there is not is said to whoever asks for it.
    pub fn open(plan: &Plan) -> Self {
        Self {
            time: TreeCounter::open(Event::TaskClock),
            instructions: TreeCounter::open(Event::Instructions),
            whole_host: plan.whole_host,
            counting_clock: plan.counting_clock,
        }
    }

    /// Counts nanoseconds of processor time.
    ///
    /// # Errors
    /// The kernel lets nobody count them.
    pub fn time(&self) -> Result<Meter<'_>> {
        match (self.whole_host, &self.time) {
            (true, _) => Ok(Meter::Host),
            (false, Ok(counter)) => Ok(Meter::Tree(counter)),
            (false, Err(error)) => Err(anyhow!("processor time cannot be counted here: {error}")),
        }
    }

    /// Counts instructions.
    ///
    /// # Errors
    /// Nothing here counts them.
    pub fn instructions(&self) -> Result<Meter<'_>> {
        match (self.whole_host && self.counting_clock, &self.instructions) {
            (true, _) => Ok(Meter::Host),
            (false, Ok(counter)) => Ok(Meter::Tree(counter)),
            (false, Err(error)) => Err(anyhow!(
                "this host has no counter of instructions ({error}); the emulated host's clock counts them"
            )),
        }
    }
}

impl Meter<'_> {
    /// The count up to now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn now(self) -> Result<u64> {
        match self {
            Self::Tree(counter) => Ok(counter.now()?),
            Self::Host => {
                let text = fs::read_to_string("/proc/schedstat").context("cannot read /proc/schedstat")?;
                run_time(&text).context("/proc/schedstat tells no time")
            }
        }
    }
}

/// The time, in nanoseconds, that all processors have run tasks: the seventh number of each of their lines.
fn run_time(text: &str) -> Option<u64> {
    let processors = text.lines().filter(|line| line.starts_with("cpu"));
    let times: Option<Vec<u64>> = processors
        .map(|line| line.split_whitespace().nth(7)?.parse().ok())
        .collect();
    times.filter(|times| !times.is_empty()).map(|times| times.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_all_processors_are_added() {
        let text = "version 15\ntimestamp 1\ncpu0 0 0 0 0 0 0 70 8 9\ndomain0 1\ncpu1 0 0 0 0 0 0 5 8 9\n";
        assert_eq!(run_time(text), Some(75));
        assert_eq!(run_time("version 15\n"), None);
    }

    #[test]
    fn a_clock_that_counts_is_believed_where_nothing_else_runs() {
        for (whole_host, counting_clock) in [(true, true), (false, true), (true, false)] {
            let plan = Plan {
                whole_host,
                counting_clock,
                ..Plan::default()
            };
            let meters = Meters::open(&plan);
            let is_clock = matches!(meters.instructions(), Ok(Meter::Host));
            assert_eq!(is_clock, whole_host && counting_clock);
        }
    }
}
