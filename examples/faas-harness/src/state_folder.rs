//! The folder in which the platform keeps what it needs on disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A folder that stays, or one that goes with the process.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    temporary: bool,
}

impl StateFolder {
    /// The folder `given`, which stays, or a new one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(given: Option<&Path>) -> io::Result<Self> {
        let folder = match given {
            Some(path) => Self {
                path: path.to_owned(),
                temporary: false,
            },
            None => Self {
                path: std::env::temp_dir().join(format!("faas-harness-{}", std::process::id())),
                temporary: true,
            },
        };
        fs::create_dir_all(&folder.path)?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StateFolder {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("faas-harness: {} is left behind: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_the_process_goes_with_it_and_a_given_one_stays() {
        let temporary = StateFolder::open(None).unwrap();
        let path = temporary.path().join("given");
        let given = StateFolder::open(Some(&path)).unwrap();
        drop(given);
        assert!(path.is_dir());
        drop(temporary);
        assert!(!path.exists());
    }
}
