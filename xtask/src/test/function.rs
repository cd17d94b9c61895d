//! The function in Go that containers are tested with.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{self, Key};
use crate::process;
use crate::workspace::Workspace;

/// The variable by which tests find it.
pub(super) const VARIABLE: &str = "SANDBOX_TEST_GO_FUNCTION";

const SOURCE: &str = "tests/containers/function.go";

/// Compiles it, unless it is up to date, and answers where it is.
pub(super) fn build(workspace: &Workspace) -> Result<PathBuf> {
    let source = workspace.root().join(SOURCE);
    let folder = workspace.target().join("xtask");
    let output = folder.join("function-go");
    cache::build(&output, &Key::default().file(&source)?, |path| {
        compile(&source, path, &folder)
    })?;
    Ok(output)
}

/// A program that needs no library, so that it can be all that a container has.
fn compile(source: &Path, program: &Path, folder: &Path) -> Result<()> {
    let mut go = process::tool("go");
    go.args(["build", "-o"])
        .arg(program)
        .arg(source)
        .current_dir(folder)
        .env("CGO_ENABLED", "0")
        .env("GO111MODULE", "off")
        .env("GOCACHE", folder.join("go-cache"))
        .env("GOPATH", folder.join("go-path"));
    process::run(&mut go).with_context(|| format!("cannot compile {}", source.display()))
}
