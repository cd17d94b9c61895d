//! Where the workspace and its build products are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// The checked-out workspace that this program was built from.
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Asks cargo for the target directory, so that every way of configuring it is honoured.
    pub(crate) fn locate() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the xtask package has no parent directory")?
            .to_path_buf();
        let metadata = metadata(&root)?;
        let target = metadata["target_directory"]
            .as_str()
            .context("cargo metadata names no target_directory")?
            .into();
        Ok(Self { root, target })
    }

    /// What cargo knows about the workspace's own packages.
    pub(crate) fn metadata(&self) -> Result<Value> {
        metadata(&self.root)
    }

    /// The folder of the workspace's `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory; everything that xtask builds lies below it.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The cargo that started this program, run in the workspace's root.
    pub(crate) fn cargo(&self) -> Command {
        cargo_in(&self.root)
    }
}

fn metadata(root: &Path) -> Result<Value> {
    let mut command = cargo_in(root);
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    serde_json::from_slice(&process::output(&mut command)?).context("cargo metadata is not JSON")
}

fn cargo_in(root: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root);
    command
}
