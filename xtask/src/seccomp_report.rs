//! `cargo xtask seccomp-report`: the system calls that workers may make, by what a thread is for.

use std::process::ExitCode;

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// What `cargo xtask help` says about it.
pub(crate) const USAGE: &str = "\
seccomp-report                   print the system calls that worker processes may make";

/// Builds the worker's program, which knows them, and has it print them.
pub(crate) fn main(workspace: &Workspace, mut arguments: lexopt::Parser) -> Result<ExitCode> {
    if let Some(unexpected) = arguments.next()? {
        return Err(unexpected.unexpected().into());
    }
    let report = process::output(
        workspace
            .cargo()
            .args(["run", "--quiet", "--package", "sandbox"])
            .args(["--bin", "sandbox-worker", "--", "seccomp-report"]),
    )?;
    print!("{}", String::from_utf8_lossy(&report));
    Ok(ExitCode::SUCCESS)
}
