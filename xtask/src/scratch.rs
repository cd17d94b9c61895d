//! A folder of one run, removed when the run ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A fresh folder that is deleted with everything in it on drop.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a folder below the system's place for temporary files.
    #[cfg(test)]
    pub(crate) fn new(name: &str) -> Result<Self> {
        Self::below(&std::env::temp_dir(), name)
    }

    /// Makes a folder below `parent`, unique to this process and call.
    pub(crate) fn below(parent: &Path, name: &str) -> Result<Self> {
        remove_abandoned(parent, name);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing can be done about a folder that does not go, and nobody waits for it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the folders of runs that were killed before they could.
fn remove_abandoned(parent: &Path, name: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let process = file_name
            .to_str()
            .and_then(|text| text.strip_prefix(name)?.strip_prefix('-')?.split_once('-'))
            .and_then(|(process, _)| process.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            // A folder that does not go is in nobody's way.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_dead_processes_are_removed_and_no_others() {
        let scratch = Scratch::new("scratch").unwrap();
        // Process numbers end at 2^22.
        let abandoned = scratch.path().join("run-4194305-0");
        let foreign = scratch.path().join("runs");
        for folder in [&abandoned, &foreign] {
            fs::create_dir(folder).unwrap();
        }
        let first = Scratch::below(scratch.path(), "run").unwrap();
        let second = Scratch::below(scratch.path(), "run").unwrap();
        assert!(first.path().exists() && second.path().exists() && foreign.exists());
        assert!(!abandoned.exists());
        let gone = first.path().to_path_buf();
        drop(first);
        assert!(!gone.exists());
    }
}
