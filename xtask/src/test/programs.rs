//! The test programs that cargo builds.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;

/// Packages whose integration tests run whole guests or change the host, and therefore also run
/// in the emulated host where this machine's KVM is not complete.
const GUEST_PACKAGES: [&str; 4] = ["sandbox", "sandbox-container", "sandbox-net", "sandbox-vmm"];

/// The package of the function platform, and those of its tests that call functions in whole guests.
const PLATFORM: &str = "faas-harness";
const FUNCTIONS: &str = "functions";

/// The package whose tests need the C library to be installed.
const LIBRARY_PACKAGE: &str = "sandbox-c";

/// One test program.
pub(super) struct Program {
    /// The package and target, for people: `sandbox-vmm tests/boot`.
    pub(super) label: String,
    pub(super) package: String,
    pub(super) executable: PathBuf,
    /// The package's folder, in which cargo's tests run.
    pub(super) directory: PathBuf,
    /// Whether its tests run whole guests.
    pub(super) runs_guests: bool,
}

impl Program {
    /// Whether it calls the papers' functions, which are large.
    pub(super) fn calls_functions(&self) -> bool {
        self.package == PLATFORM && self.runs_guests
    }
}

/// What cargo built for the tests.
#[derive(Default)]
pub(super) struct Built {
    pub(super) tests: Vec<Program>,
    /// Programs of packages whose tests run whole guests: their tests may
    /// start them, by the path known when they were compiled.
    pub(super) helpers: Vec<PathBuf>,
    /// The function platform.
    pub(super) platform: Option<PathBuf>,
}

/// Builds all test programs of the workspace.
pub(super) fn build(workspace: &Workspace) -> Result<Built> {
    let packages = package_names(workspace)?;
    let output = workspace
        .cargo()
        .args(["test", "--workspace", "--all-features", "--no-run"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo could not build the tests");
    }
    let mut built = Built::default();
    for line in output.stdout.split(|byte| *byte == b'\n') {
        if line.starts_with(b"{") {
            built.add(&serde_json::from_slice(line)?, &packages);
        }
    }
    // Cargo reports in the order in which builds happen to end.
    built.tests.sort_by(|a, b| a.label.cmp(&b.label));
    Ok(built)
}

/// Whether the filter leaves any test that needs the C library, which takes a while to build.
pub(super) fn any_test_needs_library(tests: &[Program], filter: Option<&OsStr>) -> Result<bool> {
    let mut candidates = tests
        .iter()
        .filter(|test| test.package == LIBRARY_PACKAGE && test.label.contains(" tests/"));
    let Some(filter) = filter else {
        return Ok(candidates.next().is_some());
    };
    for test in candidates {
        let listed = Command::new(&test.executable).arg("--list").arg(filter).output()?;
        if String::from_utf8_lossy(&listed.stdout).contains(": test") {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Built {
    fn add(&mut self, message: &Value, packages: &BTreeMap<String, String>) {
        let Some(executable) = message["executable"].as_str() else {
            return;
        };
        let package = message["package_id"].as_str().and_then(|id| packages.get(id));
        let kind = message["target"]["kind"][0].as_str();
        let target = message["target"]["name"].as_str();
        let manifest = message["manifest_path"].as_str();
        let (Some(package), Some(kind), Some(target), Some(manifest)) = (package, kind, target, manifest) else {
            return;
        };
        let is_platform = package == PLATFORM;
        let has_guests = GUEST_PACKAGES.contains(&package.as_str()) || is_platform && target == FUNCTIONS;
        if message["profile"]["test"].as_bool() == Some(true) {
            self.tests.push(Program {
                label: match kind {
                    "test" => format!("{package} tests/{target}"),
                    _ => format!("{package} {kind} {target}"),
                },
                package: package.clone(),
                executable: PathBuf::from(executable),
                directory: Path::new(manifest).with_file_name(""),
                runs_guests: has_guests && kind == "test",
            });
        } else if kind == "bin" && is_platform {
            self.platform = Some(PathBuf::from(executable));
        } else if kind == "bin" && has_guests {
            self.helpers.push(PathBuf::from(executable));
        }
    }
}

fn package_names(workspace: &Workspace) -> Result<BTreeMap<String, String>> {
    let metadata = workspace.metadata()?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    Ok(packages
        .iter()
        .filter_map(|package| {
            let (id, name) = (package["id"].as_str()?, package["name"].as_str()?);
            Some((id.to_owned(), name.to_owned()))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn artifact(kind: &str, test: bool) -> Value {
        json!({
            "reason": "compiler-artifact",
            "package_id": "path+file:///w#sandbox@0.1.0",
            "manifest_path": "/w/Cargo.toml",
            "target": {"kind": [kind], "name": "boot"},
            "profile": {"test": test},
            "executable": "/w/target/debug/boot",
        })
    }

    #[test]
    fn artifacts_are_sorted_into_tests_and_helpers() {
        let id = "path+file:///w#sandbox@0.1.0".to_owned();
        let packages = BTreeMap::from([(id, "sandbox".to_owned())]);
        let mut built = Built::default();
        built.add(&artifact("test", true), &packages);
        built.add(&artifact("lib", true), &packages);
        built.add(&artifact("bin", false), &packages);
        built.add(&json!({"reason": "build-finished"}), &packages);

        let labels: Vec<&str> = built.tests.iter().map(|test| &*test.label).collect();
        assert_eq!(labels, ["sandbox tests/boot", "sandbox lib boot"]);
        assert!(built.tests[0].runs_guests);
        assert!(!built.tests[1].runs_guests);
        assert_eq!(built.tests[0].directory, Path::new("/w/"));
        assert_eq!(built.helpers, [Path::new("/w/target/debug/boot")]);
    }
}
