//! Snapshots, restores and forks: of the web server `http-reply`, and of a stock Linux guest.

mod clones;
mod linux;
mod memory;
mod parent;
mod tap;

use std::path::Path;

use anyhow::{Result, bail};
use sandbox::snapshot::MemoryRestore;
use sandbox::{KvmOptions, Runtime};

use crate::cold_start::Image;
use crate::report::Report;
use crate::{Options, peers};
pub(crate) use linux::measure as linux;

/// How a clone comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A snapshot's folder, its memory mapped, read or fetched on demand.
    Restore(MemoryRestore),
    /// In memory.
    Fork,
}

impl Way {
    const ALL: [Self; 4] = [
        Self::Restore(MemoryRestore::Cow),
        Self::Restore(MemoryRestore::Eager),
        Self::Restore(MemoryRestore::Uffd),
        Self::Fork,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Restore(MemoryRestore::Cow) => "cow",
            Self::Restore(MemoryRestore::Eager) => "eager",
            Self::Restore(MemoryRestore::Uffd) => "uffd",
            Self::Fork => "fork",
        }
    }
}

/// The web server: how soon a clone runs and answers, what it costs to be there, and how many come in a second.
pub(crate) fn server(options: &Options, report: &mut Report) -> Result<()> {
    let runtime = runtime();
    let parent = parent::Parent::serving(&runtime)?;
    parent.measure_snapshot(options.rounds, report)?;
    if let Some(program) = &options.restore_floor {
        floor(program, options.rounds, report)?;
    }
    for round in 0..=options.rounds {
        let attached = tap::attach_floor(&parent.tap)?;
        if round > 0 {
            report.add_span("floor/http-reply/tap", "call_to_first_entry", attached);
        }
    }
    for way in Way::ALL {
        let case = format!("sdk/http-reply/in_process/{}", way.name());
        for round in 0..=options.rounds {
            match clones::one(&runtime, &parent, way) {
                Ok(clone) if round > 0 => clone.report(&case, report),
                Ok(_) => {}
                Err(error) => {
                    report.failed(&case, format!("{error:#}"));
                    break;
                }
            }
        }
    }
    if let Err(error) = clones::pooled(&runtime, &parent, options.rounds, report) {
        report.failed("sdk/http-reply/in_process/pool", format!("{error:#}"));
    }
    clones::burst(&parent, report)?;
    memory::per_clone(&parent, report)
}

/// The KVM calls alone, for a guest without devices.
fn floor(program: &Path, rounds: usize, report: &mut Report) -> Result<()> {
    let image = Image::write("hello", sandbox_guests::HELLO)?;
    for round in 0..=rounds {
        let floor = peers::floor(program, image.path(), false)?;
        if round > 0 {
            report.add_span("floor/hello/restore", "call_to_first_entry", floor.first_entry);
            report.add_span("floor/hello/restore", "call_to_first_exit", floor.first_exit);
            report.add_span("floor/hello/restore", "call_to_torn_down", floor.torn_down);
        }
    }
    Ok(())
}

fn runtime() -> Runtime {
    Runtime::with_kvm_options(KvmOptions {
        cpu_timeline: true,
        ..KvmOptions::default()
    })
}

/// The only one of a list that has one.
fn single<T>(list: Vec<T>) -> Result<T> {
    match <[T; 1]>::try_from(list) {
        Ok([one]) => Ok(one),
        Err(list) => bail!("asked for one clone and got {}", list.len()),
    }
}
