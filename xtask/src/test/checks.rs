//! Checks of the source that are not tests.

use crate::workspace::Workspace;

/// A cargo command that must succeed.
pub(super) struct Check {
    pub(super) name: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

/// All checks, the quickest first.
pub(super) const ALL: [Check; 3] = [
    Check {
        name: "formatting",
        arguments: &["fmt", "--all", "--", "--check"],
        environment: &[],
    },
    Check {
        name: "lints",
        arguments: &[
            "clippy",
            "--workspace",
            "--all-features",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        environment: &[],
    },
    Check {
        name: "documentation",
        arguments: &["doc", "--workspace", "--no-deps"],
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
    },
];

impl Check {
    /// Runs the check, which writes to the terminal; answers why it failed.
    pub(super) fn run(&self, workspace: &Workspace) -> Option<String> {
        let status = workspace
            .cargo()
            .args(self.arguments)
            .envs(self.environment.iter().copied())
            .status();
        match status {
            Ok(status) if status.success() => None,
            Ok(status) => Some(format!("cargo {} ended with {status}", self.arguments[0])),
            Err(error) => Some(format!("cannot run cargo: {error}")),
        }
    }
}
