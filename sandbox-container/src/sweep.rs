//! Removing what a process left behind that ended without a word.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use sandbox_net::Networks;

use crate::cgroup::{Cgroup, Hierarchy};
use crate::image::{Store, UnpackLimits};
use crate::runtime;
use crate::state::{self, Record};

/// Longer than a runtime takes to delete a container on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two looks at a runtime that deletes.
const LOOK: Duration = Duration::from_millis(5);

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Containers that were removed, by the names that runtimes knew them by.
    pub removed: Vec<String>,
    /// What could not be removed, and why.
    pub failed: Vec<String>,
}

/// Removes every container below `root` whose embedder is gone, with all that belongs to it: processes, mounts,
/// cgroups, folders. Those of living processes are not touched. Any process may do this at any time; two at once do not
/// meet, because each backend's folder has a lock.
pub fn sweep(root: &Path) -> Swept {
    let mut swept = Swept::default();
    for (folder, _lock) in state::abandoned(root) {
        remove_all(&folder, &mut swept);
    }
    swept
}

/// Removes one backend's folder, whose process is going: its lock is waited for.
pub(crate) fn abandoned(folder: &Path) {
    let mut swept = Swept::default();
    if let Some(_lock) = state::await_lock_of(folder) {
        remove_all(folder, &mut swept);
    }
    for failure in swept.failed {
        tracing::warn!("left behind: {failure}");
    }
}

fn remove_all(folder: &Path, swept: &mut Swept) {
    let hierarchy = Hierarchy::of_this_host();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let containers: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    let (mut stores, mut networks) = (BTreeSet::new(), BTreeSet::new());
    for container in containers {
        let name = container.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let record = Record::read(&container).ok();
        let name = record.as_ref().map_or(name, |record| record.id.clone());
        match remove_container(&container, record.as_ref(), &hierarchy) {
            Ok(()) => {
                swept.removed.push(name);
                stores.extend(record.as_ref().map(|record| record.store.clone()));
                networks.extend(record.and_then(|record| record.networks));
            }
            Err(error) => swept.failed.push(format!("{name}: {error}")),
        }
    }
    // When no process of theirs is left.
    for store in stores {
        let result = Store::open(&store, UnpackLimits::default()).and_then(|store| store.sweep());
        swept.failed.extend(result.err().map(|error| error.to_string()));
    }
    for records in networks {
        let result = Networks::new(&records).sweep();
        swept.failed.extend(result.err().map(|error| error.to_string()));
    }
    if swept.failed.is_empty()
        && let Err(error) = fs::remove_dir_all(folder)
    {
        swept.failed.push(format!("{}: {error}", folder.display()));
    }
}

/// Without a record nothing was made beside the folder.
fn remove_container(folder: &Path, record: Option<&Record>, hierarchy: &Hierarchy) -> io::Result<()> {
    if let Some(record) = record {
        if let Some((runtime, flags)) = record.runtime(folder) {
            let words = runtime.words(&flags, runtime::Command::Delete, &record.id);
            // A runtime that fails, or is not installed any more, is made up for by what follows.
            let _ = run(&words);
        }
        if let Some(name) = &record.cgroup {
            Cgroup::new(hierarchy, name).remove()?;
        }
    }
    remove_folder(folder)
}

/// Removes a container's folder with what is mounted in it.
pub(crate) fn remove_folder(folder: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped);
    let mut below: Vec<PathBuf> = below.filter(|path| path.starts_with(folder)).collect();
    below.reverse();
    for path in below {
        unmount(&path, UnmountFlags::DETACH)?;
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A path as `/proc/self/mountinfo` writes it, with octal escapes.
fn unescaped(path: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let plain = escapes
        .iter()
        .fold(path.to_owned(), |path, (escape, plain)| path.replace(escape, plain));
    PathBuf::from(plain)
}

fn run(words: &[PathBuf]) -> io::Result<()> {
    let Some((program, arguments)) = words.split_first() else {
        return Ok(());
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    await_end(&mut child, Instant::now() + PATIENCE)
}

fn await_end(child: &mut Child, deadline: Instant) -> io::Result<()> {
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
