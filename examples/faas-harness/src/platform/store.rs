//! The list of functions that outlives the platform.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::function::FunctionSpec;

/// A file that holds all functions as JSON. It is replaced as a whole, so that a crash leaves the old list or the new.
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    pub(super) fn load(&self) -> anyhow::Result<Vec<FunctionSpec>> {
        let file = self.file();
        match fs::read(&file) {
            Ok(json) => {
                serde_json::from_slice(&json).with_context(|| format!("{} is not a list of functions", file.display()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    pub(super) fn save(&self, functions: &[FunctionSpec]) -> io::Result<()> {
        let new = self.directory.join("functions.json.new");
        let mut file = File::create(&new)?;
        file.write_all(serde_json::to_string_pretty(functions)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(new, self.file())
    }

    fn file(&self) -> PathBuf {
        self.directory.join("functions.json")
    }
}
