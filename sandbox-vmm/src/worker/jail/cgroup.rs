//! A control group for a worker, made and removed by the embedder (cgroups(7), both versions).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use sandbox_core::spec::SandboxSpec;
use sandbox_core::{Error, Result};

use crate::error::kind_of;

const MOUNT: &str = "/sys/fs/cgroup";
/// Time within which the quota of processor time counts, in microseconds.
const PERIOD: u64 = 100_000;
/// The least quota that the kernel takes, in microseconds.
const LEAST_QUOTA: u64 = 1_000;
/// Memory that a worker needs beside its guest's, in bytes: its own, the kernel's for it, and one part in 64 of the
/// guest's for page tables.
const OVERHEAD: u64 = 64 << 20;
const PAGE_TABLE_SHARE: u64 = 64;
/// A fork holds the frozen copy of the guest's memory beside it until the guest goes on over the copy.
const COPIES: u64 = 2;
/// Threads beside those of the vCPUs.
const OTHER_THREADS: u64 = 4;

/// A worker's control group; removed when this is dropped, which must be behind the worker's end.
#[derive(Debug)]
pub struct Cgroup {
    /// One in the unified hierarchy, or one per controller.
    folders: Vec<PathBuf>,
}

/// A file of a control group, and what is written to it.
struct Setting {
    controller: &'static str,
    file: &'static str,
    value: String,
    /// The field of the spec that asks for it.
    field: Option<&'static str>,
}

/// The fewest threads that the worker of such a sandbox does with.
pub fn least_threads(spec: &SandboxSpec) -> u64 {
    u64::from(spec.vcpus) + OTHER_THREADS
}

impl Cgroup {
    /// Makes the group that `spec` needs, below `parent` or the embedder's own group; none for a spec without limits
    /// that need one, unless a parent was named.
    ///
    /// # Errors
    /// A limit that cannot be held here.
    pub fn for_spec(spec: &SandboxSpec, parent: Option<&Path>) -> Result<Option<Self>> {
        if spec.limits.cpu_quota.is_none() && spec.limits.pids.is_none() && parent.is_none() {
            return Ok(None);
        }
        let unified = Path::new(MOUNT).join("cgroup.controllers").exists();
        let mut group = Self { folders: Vec::new() };
        let made = match unified {
            true => group.make_unified(spec, parent),
            false => group.make_separate(spec, parent),
        };
        // What was made up to an error goes with the value.
        made.map(|()| Some(group))
    }

    /// Puts the worker into the group.
    pub fn take_in(&self, pid: libc::pid_t) -> Result<()> {
        for folder in &self.folders {
            write(folder, "cgroup.procs", &pid.to_string()).map_err(|error| failed(error, folder))?;
        }
        Ok(())
    }

    /// Whether the kernel ended a process of the group for want of memory.
    pub fn was_out_of_memory(&self) -> bool {
        let files = self
            .folders
            .iter()
            .flat_map(|folder| ["memory.events", "memory.oom_control"].map(|file| folder.join(file)));
        files.filter_map(|file| fs::read_to_string(file).ok()).any(|text| {
            text.lines()
                .filter_map(|line| line.strip_prefix("oom_kill "))
                .any(|count| count.trim() != "0")
        })
    }

    fn make_unified(&mut self, spec: &SandboxSpec, parent: Option<&Path>) -> Result<()> {
        let parent = match parent {
            Some(parent) => parent.to_path_buf(),
            None => own_group("").ok_or_else(|| failed(io::ErrorKind::NotFound.into(), Path::new(MOUNT)))?,
        };
        let settings = [cpu_max(spec), memory(spec, "memory.max"), Some(threads(spec))];
        for setting in settings.iter().flatten() {
            // Given already, or refused; the write of the limit tells.
            let _ = write(&parent, "cgroup.subtree_control", &format!("+{}", setting.controller));
        }
        let folder = self.make(&parent)?;
        apply(&folder, settings.into_iter().flatten())
    }

    fn make_separate(&mut self, spec: &SandboxSpec, parent: Option<&Path>) -> Result<()> {
        let cpu = cpu_max(spec).map(|setting| Setting {
            file: "cpu.cfs_quota_us",
            value: setting.value.split(' ').next().unwrap_or_default().to_owned(),
            ..setting
        });
        for setting in [cpu, memory(spec, "memory.limit_in_bytes"), Some(threads(spec))]
            .into_iter()
            .flatten()
        {
            let base = Path::new(MOUNT).join(setting.controller);
            let parent = match parent {
                Some(parent) => Some(base.join(parent.strip_prefix("/").unwrap_or(parent))),
                None => own_group(setting.controller),
            };
            match parent.filter(|_| base.exists()) {
                Some(parent) => {
                    let folder = self.make(&parent)?;
                    apply(&folder, [setting].into_iter())?;
                }
                None => setting.not_held(None)?,
            }
        }
        Ok(())
    }

    fn make(&mut self, parent: &Path) -> Result<PathBuf> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("sandbox-{}-{number}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| failed(error, &folder))?;
        self.folders.push(folder.clone());
        Ok(folder)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            if let Err(error) = fs::remove_dir(folder) {
                tracing::debug!(%error, ?folder, "control group not removed");
            }
        }
    }
}

impl Setting {
    /// What is asked for must be held; the others bound a worker that its guest has taken over, where there are such
    /// controllers.
    fn not_held(&self, error: Option<io::Error>) -> Result<()> {
        let Some(field) = self.field else {
            tracing::debug!(?error, file = self.file, "limit not set");
            return Ok(());
        };
        let context = format!(
            "this process's control group has no {} controller to pass on; name a group that has in the worker options",
            self.controller
        );
        Err(Error::unsupported(field, context))
    }
}

/// Writes the limits.
fn apply(folder: &Path, settings: impl Iterator<Item = Setting>) -> Result<()> {
    for setting in settings {
        if let Err(error) = write(folder, setting.file, &setting.value) {
            setting.not_held(Some(error))?;
        }
    }
    Ok(())
}

fn cpu_max(spec: &SandboxSpec) -> Option<Setting> {
    let quota = u64::from(spec.limits.cpu_quota?) * PERIOD / 1000;
    Some(Setting {
        controller: "cpu",
        file: "cpu.max",
        value: format!("{} {PERIOD}", quota.max(LEAST_QUOTA)),
        field: Some("limits.cpu_quota"),
    })
}

fn memory(spec: &SandboxSpec, file: &'static str) -> Option<Setting> {
    let limit = spec
        .memory
        .checked_mul(COPIES)?
        .checked_add(spec.memory / PAGE_TABLE_SHARE)?
        .checked_add(OVERHEAD)?;
    Some(Setting {
        controller: "memory",
        file,
        value: limit.to_string(),
        field: None,
    })
}

fn threads(spec: &SandboxSpec) -> Setting {
    let asked = spec.limits.pids.map(u64::from);
    Setting {
        controller: "pids",
        file: "pids.max",
        value: asked.unwrap_or_else(|| least_threads(spec)).to_string(),
        field: asked.map(|_| "limits.pids"),
    }
}

/// The embedder's own group of a controller; of the unified hierarchy for an empty name.
fn own_group(controller: &str) -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    })?;
    Some(Path::new(MOUNT).join(controller).join(path.trim_start_matches('/')))
}

fn write(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    fs::write(folder.join(file), value)
}

fn failed(error: io::Error, folder: &Path) -> Error {
    let context = format!(
        "cannot make or enter the control group {}; name one that this user may write to in the worker options",
        folder.display()
    );
    Error::new(kind_of(&error), context)
        .with_field("limits")
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(limits: &str) -> SandboxSpec {
        let json = format!(r#"{{"guest": {{"unikernel": {{"image": "i"}}}}, "memory": 67108864, "limits": {limits}}}"#);
        SandboxSpec::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn a_spec_without_a_quota_needs_no_group() {
        assert!(Cgroup::for_spec(&spec("{}"), None).unwrap().is_none());
    }

    #[test]
    fn limits_are_written_as_the_kernel_counts_them() {
        let half = spec(r#"{"cpu_quota": 500}"#);
        assert_eq!(cpu_max(&half).unwrap().value, "50000 100000");
        assert_eq!(cpu_max(&spec(r#"{"cpu_quota": 1}"#)).unwrap().value, "1000 100000");
        assert_eq!(
            memory(&half, "memory.max").unwrap().value,
            ((2 * 64 + 1 + 64) << 20).to_string()
        );
        assert_eq!(threads(&half).value, "5");
        assert_eq!(threads(&spec(r#"{"pids": 16}"#)).value, "16");
    }
}
