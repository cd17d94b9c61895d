//! Control groups, of both versions: where they are, what a container uses by them, and those that the SDK makes itself
//! for a runtime that makes none.

mod hierarchy;
mod usage;

use std::fs;
use std::io::{self, ErrorKind as IoErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::disks::DiskLimits;

pub use hierarchy::{Hierarchy, Mode};
pub use usage::{Usage, disks_by_operation};

/// A cgroup's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory, and memory and swap together, in bytes.
    pub memory: u64,
    /// Processor time per period, in microseconds.
    pub cpu_quota: u64,
    /// The period, in microseconds.
    pub cpu_period: u64,
    /// The host's disks.
    pub disks: DiskLimits,
}

/// Controllers that hold a container's limits and count what it uses.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "freezer", "blkio"];
/// The kernel needs a moment until a cgroup whose last process was killed is empty.
const EMPTYING: Duration = Duration::from_secs(10);

/// The cgroup of one container; there may be one in each of several hierarchies.
#[derive(Clone, Debug)]
pub struct Cgroup {
    name: PathBuf,
    folders: Vec<PathBuf>,
    /// Where a runtime may have made it as well.
    elsewhere: Vec<PathBuf>,
    is_unified: bool,
}

impl Cgroup {
    /// The cgroup called `name`, directly below the hierarchies' roots: there is no folder to share, so that none stays.
    pub fn new(hierarchy: &Hierarchy, name: &str) -> Self {
        let name = PathBuf::from(format!("/{name}"));
        let relative = name.strip_prefix("/").unwrap_or(&name);
        Self {
            folders: hierarchy
                .roots(&CONTROLLERS)
                .iter()
                .map(|root| root.join(relative))
                .collect(),
            elsewhere: hierarchy.all_roots().iter().map(|root| root.join(relative)).collect(),
            is_unified: hierarchy.mode == Mode::Unified,
            name,
        }
    }

    /// Its path from the hierarchies' roots, as runtimes take it.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The files by which a process joins it.
    pub fn process_files(&self) -> Vec<PathBuf> {
        self.folders.iter().map(|folder| folder.join("cgroup.procs")).collect()
    }

    /// Makes it.
    ///
    /// # Errors
    /// The host's; nothing is left of it then.
    pub fn create(&self, limits: &Limits) -> io::Result<()> {
        let made = self.folders.iter().try_for_each(fs::create_dir);
        let made = made.and_then(|()| self.set(limits));
        if made.is_err() {
            // The first error is the one to tell.
            let _ = self.remove();
        }
        made
    }

    fn set(&self, limits: &Limits) -> io::Result<()> {
        let Limits {
            memory,
            cpu_quota,
            cpu_period,
            disks,
        } = limits;
        self.limit_disks(disks)?;
        if self.is_unified {
            self.write("memory.max", &memory.to_string())?;
            self.write_if_there("memory.swap.max", "0")?;
            self.write_if_there("memory.oom.group", "1")?;
            return self.write("cpu.max", &format!("{cpu_quota} {cpu_period}"));
        }
        self.write("memory.limit_in_bytes", &memory.to_string())?;
        self.write_if_there("memory.memsw.limit_in_bytes", &memory.to_string())?;
        self.write("cpu.cfs_period_us", &cpu_period.to_string())?;
        self.write("cpu.cfs_quota_us", &cpu_quota.to_string())
    }

    fn limit_disks(&self, limits: &DiskLimits) -> io::Result<()> {
        let words = [
            ("rbps", "blkio.throttle.read_bps_device", limits.read.bytes),
            ("riops", "blkio.throttle.read_iops_device", limits.read.operations),
            ("wbps", "blkio.throttle.write_bps_device", limits.write.bytes),
            ("wiops", "blkio.throttle.write_iops_device", limits.write.operations),
        ];
        for (major, minor) in &limits.disks {
            for (word, file, rate) in words {
                let Some(rate) = rate else { continue };
                match self.is_unified {
                    true => self.write("io.max", &format!("{major}:{minor} {word}={rate}"))?,
                    false => self.write(file, &format!("{major}:{minor} {rate}"))?,
                }
            }
        }
        Ok(())
    }

    /// Kills all in it and removes it, whoever made it. One that is not there is removed already.
    ///
    /// # Errors
    /// It does not get empty.
    pub fn remove(&self) -> io::Result<()> {
        let deadline = Instant::now() + EMPTYING;
        // Where it holds processes first: then the others are empty.
        let mut all = self.folders.iter().chain(&self.elsewhere);
        all.try_for_each(|folder| remove(folder, deadline))
    }

    /// Lets frozen processes go on, so that a signal that ends them is seen; no error where nothing is frozen.
    pub fn thaw(&self) {
        let (file, value) = match self.is_unified {
            true => ("cgroup.freeze", "0"),
            false => ("freezer.state", "THAWED"),
        };
        let _ = self.write_if_there(file, value);
    }

    /// Reads what it uses.
    pub fn usage(&self) -> Usage {
        usage::read(self)
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.folders
            .iter()
            .map(|folder| folder.join(name))
            .find(|path| path.exists())
    }

    fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.file(name)?).ok()
    }

    fn write(&self, name: &str, value: &str) -> io::Result<()> {
        let file = self.file(name).ok_or_else(|| {
            let context = format!("this host's cgroups have no {name}");
            io::Error::new(IoErrorKind::Unsupported, context)
        })?;
        fs::write(file, value)
    }

    fn write_if_there(&self, name: &str, value: &str) -> io::Result<()> {
        match self.file(name) {
            Some(file) => fs::write(file, value),
            None => Ok(()),
        }
    }
}

/// Kills what is in the cgroup at `folder` and below, and removes all of it.
pub fn remove(folder: &Path, deadline: Instant) -> io::Result<()> {
    let mut pause = Duration::from_micros(200);
    loop {
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => {}
        }
        kill_all(folder);
        for child in fs::read_dir(folder).into_iter().flatten().flatten() {
            if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&child.path(), deadline)?;
            }
        }
        // The kernel says on version 2 when a cgroup is empty, on version 1 nothing: both are asked again instead, by
        // the thread that tears down, for which nobody waits.
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn kill_all(folder: &Path) {
    if fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let _ = fs::write(folder.join("freezer.state"), "THAWED");
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
