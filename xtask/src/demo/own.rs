//! A guest that the user brings: what the command line says of it, for the
//! quickstart that boots it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, Result, ensure};

/// Options that are passed on, and whether their value names a file.
const PASSED_ON: [(&str, bool); 12] = [
    ("initrd", true),
    ("disk", true),
    ("memory", false),
    ("http", false),
    ("network", false),
    ("marker", false),
    ("env", false),
    ("protocol", false),
    ("clones", false),
    ("rounds", false),
    ("pool", false),
    ("patience", false),
];

/// What is booted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Own {
    /// The kernel file.
    pub(super) image: PathBuf,
    /// Options of the quickstart.
    pub(super) options: Vec<OsString>,
    /// The guest's own arguments.
    pub(super) arguments: Vec<OsString>,
    /// Every file that is named.
    pub(super) files: Vec<PathBuf>,
}

impl Own {
    /// The guest of the kernel file `image`.
    pub(super) fn new(image: &OsStr) -> Result<Self> {
        let image = existing(Path::new(image))?;
        Ok(Self {
            files: vec![image.clone()],
            image,
            options: Vec::new(),
            arguments: Vec::new(),
        })
    }

    /// Whether there is such an option.
    pub(super) fn knows(name: &str) -> bool {
        PASSED_ON.iter().any(|(known, _)| *known == name)
    }

    /// Takes an option that it knows.
    pub(super) fn option(&mut self, name: &str, value: OsString) -> Result<()> {
        let names_file = PASSED_ON.iter().any(|(known, file)| *known == name && *file);
        let value = match names_file {
            true => self.file(&value)?,
            false => value,
        };
        self.options.extend([format!("--{name}").into(), value]);
        Ok(())
    }

    /// Takes a file, or `NAME=FILE`, and gives it with the whole path.
    fn file(&mut self, value: &OsStr) -> Result<OsString> {
        let text = value.to_str().context("a file's name is no UTF-8")?;
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (Some(name), path),
            None => (None, text),
        };
        let path = existing(Path::new(path))?;
        let value = match name {
            Some(name) => format!("{name}={}", path.display()).into(),
            None => path.clone().into_os_string(),
        };
        self.files.push(path);
        Ok(value)
    }
}

fn existing(path: &Path) -> Result<PathBuf> {
    ensure!(path.is_file(), "there is no file {}", path.display());
    absolute(path).with_context(|| format!("cannot tell the whole path of {}", path.display()))
}
