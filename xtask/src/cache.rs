//! Files that are built once and kept until what they are made from changes.
//!
//! Beside every output lies a hidden key file that describes its ingredients;
//! the output is rebuilt only when the description differs.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A description of everything that an output is made from.
#[derive(Default)]
pub(crate) struct Key(String);

impl Key {
    /// Adds bytes that are at hand, by a digest of them.
    pub(crate) fn bytes(mut self, name: &str, bytes: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        self.0 += &format!("{name}: {:016x}\n", hasher.finish());
        self
    }

    /// Adds a file by its path, size and time of change: reading tens of
    /// megabytes at every start would cost more than it tells.
    pub(crate) fn file(mut self, path: &Path) -> Result<Self> {
        let metadata = path
            .metadata()
            .with_context(|| format!("cannot read {}", path.display()))?;
        self.0 += &format!(
            "{}: {} bytes, changed {}.{:09}\n",
            path.display(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        Ok(self)
    }
}

/// Builds `output` unless it stands there with the same key already.
///
/// `build` writes to the path it is given, which then takes the output's place
/// in one step: a build that fails half-way leaves nothing that looks finished.
pub(crate) fn build(output: &Path, key: &Key, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let key_file = hidden(output, "key")?;
    if output.exists() && fs::read_to_string(&key_file).is_ok_and(|old| old == key.0) {
        return Ok(());
    }
    if let Some(parent) = output.parent() {
        fs::create_dir_all(parent)?;
    }
    let unfinished = hidden(output, "unfinished")?;
    remove(&unfinished)?;
    build(&unfinished).with_context(|| format!("cannot build {}", output.display()))?;
    remove(&key_file)?;
    remove(output)?;
    fs::rename(&unfinished, output).with_context(|| format!("cannot put {} in its place", output.display()))?;
    fs::write(&key_file, &key.0)?;
    Ok(())
}

/// Holds off other runs of xtask while one builds in `directory`.
///
/// The lock ends with the returned file.
pub(crate) fn lock(directory: &Path) -> Result<File> {
    fs::create_dir_all(directory)?;
    let file = File::create(directory.join(".lock"))?;
    loop {
        // SAFETY: the descriptor belongs to `file`, which outlives the call.
        let answer = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
        if answer == 0 {
            return Ok(file);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).with_context(|| format!("cannot lock {}", directory.display()));
        }
    }
}

fn hidden(output: &Path, what: &str) -> Result<PathBuf> {
    let name = output
        .file_name()
        .with_context(|| format!("{} names no file", output.display()))?
        .to_string_lossy();
    Ok(output.with_file_name(format!(".{name}.{what}")))
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn an_output_is_rebuilt_only_when_its_key_changes() {
        let scratch = Scratch::new("cache").unwrap();
        let output = scratch.path().join("sub/output");
        let mut builds = 0;
        for ingredient in ["one", "one", "two"] {
            let key = Key::default().bytes("ingredient", ingredient.as_bytes());
            build(&output, &key, |path| {
                builds += 1;
                Ok(fs::write(path, ingredient)?)
            })
            .unwrap();
            assert_eq!(fs::read_to_string(&output).unwrap(), ingredient);
        }
        assert_eq!(builds, 2);
    }

    #[test]
    fn a_failed_build_leaves_no_output() {
        let scratch = Scratch::new("cache-failure").unwrap();
        let output = scratch.path().join("output");
        let key = Key::default().bytes("ingredient", b"x");
        build(&output, &key, |path| {
            fs::write(path, "half")?;
            anyhow::bail!("interrupted")
        })
        .unwrap_err();
        assert!(!output.exists());
        build(&output, &key, |path| Ok(fs::write(path, "whole")?)).unwrap();
        assert_eq!(fs::read_to_string(&output).unwrap(), "whole");
    }
}
