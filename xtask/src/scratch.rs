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
