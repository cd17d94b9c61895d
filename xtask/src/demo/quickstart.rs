//! The example that the demo runs: built, and started here or in the emulated
//! host.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::own::Own;
use super::place::Needs;
use crate::assets::{self, Flavour, Kernel};
use crate::cache;
use crate::kvm_host::{self, Carried, Ending, HostRun, shell_word};
use crate::packages::{self, Package};
use crate::workspace::Workspace;

const PACKAGE: &str = "sandbox-quickstart";

/// Several times as long as any part takes in the emulated host.
const EMULATED_TIMEOUT: Duration = Duration::from_secs(180);

/// What the init of `marker.cpio` prints.
const MARKER: &str = "SANDBOX-INIT";

/// The emulated processor knows these features, but its virtualisation does
/// not let a guest switch them on (`xsetbv`): they are hidden from the guest.
const BROKEN_IN_EMULATION: [&str; 9] = [
    "xsave", "xsaveopt", "xsavec", "xgetbv1", "xsaves", "avx", "avx2", "fma", "f16c",
];

const LINUX_PACKAGES: [Package; 2] = [
    Package {
        name: "gcc",
        why: "compiles the Linux guest's init",
    },
    Package {
        name: "libc6-dev",
        why: "is linked into the Linux guest's init",
    },
];

/// One part of the demo.
pub(super) struct Part {
    /// What is shown, for people.
    pub(super) title: String,
    /// The guest's name in JSON.
    pub(super) guest: String,
    /// What it needs of the machine.
    pub(super) needs: Needs,
    arguments: Vec<OsString>,
    /// Arguments for the emulated host alone.
    emulated_arguments: Vec<OsString>,
    files: Vec<PathBuf>,
    /// The guest's own arguments, behind all others and two dashes.
    behind: Vec<OsString>,
}

/// The guest's own arguments as they stand at the end of a command line.
fn behind_dashes(arguments: &[OsString]) -> Vec<OsString> {
    match arguments.is_empty() {
        true => Vec::new(),
        false => [OsString::from("--")]
            .into_iter()
            .chain(arguments.iter().cloned())
            .collect(),
    }
}

fn masked() -> Vec<OsString> {
    let options = BROKEN_IN_EMULATION.iter().flat_map(|feature| ["--mask", feature]);
    options.map(OsString::from).collect()
}

impl Part {
    /// The web server.
    pub(super) fn web() -> Self {
        Self {
            title: "a web server without an operating system".to_owned(),
            guest: "http-reply".to_owned(),
            needs: Needs {
                complete_kvm: false,
                network: true,
            },
            arguments: vec!["web".into()],
            emulated_arguments: Vec::new(),
            files: Vec::new(),
            behind: Vec::new(),
        }
    }

    /// A unikernel that the user brings.
    pub(super) fn own(own: Own) -> Self {
        let network = own.options.iter().any(|option| option == "--http");
        let mut arguments: Vec<OsString> = vec!["boot".into()];
        arguments.extend(own.options);
        arguments.push(own.image.clone().into());
        Self {
            title: format!("{}, whatever it is", own.image.display()),
            guest: own.image.display().to_string(),
            // What it executes is not known, so nothing less will do.
            needs: Needs {
                complete_kvm: true,
                network,
            },
            arguments,
            emulated_arguments: masked(),
            files: own.files,
            behind: own.arguments,
        }
    }

    /// Debian's cloud kernel with the smallest init, which are built or
    /// fetched first where they are not there yet.
    pub(super) fn linux(workspace: &Workspace) -> Result<Self> {
        packages::ensure(&LINUX_PACKAGES)?;
        let _lock = cache::lock(&workspace.target().join("xtask"))?;
        let folder = workspace.target().join("assets");
        let debian = Kernel::obtain(workspace, Flavour::Cloud).context("cannot get Debian's cloud kernel")?;
        let kernel = folder.join(Flavour::Cloud.name()).join("vmlinux");
        assets::build_vmlinux(&kernel, &debian)?;
        let initrd = folder.join("marker.cpio");
        assets::build_marker(&initrd)?;

        let mut arguments: Vec<OsString> = vec!["linux".into(), "--marker".into(), MARKER.into()];
        arguments.extend(["--kernel".into(), kernel.clone().into()]);
        arguments.extend(["--initrd".into(), initrd.clone().into()]);
        Ok(Self {
            title: format!("stock Debian Linux {}, up to its init and power-off", debian.release()),
            guest: "linux".to_owned(),
            needs: Needs {
                complete_kvm: true,
                network: false,
            },
            arguments,
            emulated_arguments: masked(),
            files: vec![kernel, initrd],
            behind: Vec::new(),
        })
    }
}

/// The built example.
pub(super) struct Quickstart {
    program: PathBuf,
}

impl Quickstart {
    /// Builds it, as an embedder would ship it.
    pub(super) fn build(workspace: &Workspace) -> Result<Self> {
        let output = workspace
            .cargo()
            .args(["build", "--release", "--package", PACKAGE])
            .args(["--message-format", "json-render-diagnostics"])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo")?;
        if !output.status.success() {
            bail!("cargo could not build {PACKAGE}");
        }
        let program = output
            .stdout
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
            .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
            .with_context(|| format!("cargo names no program of {PACKAGE}"))?;
        Ok(Self { program })
    }

    /// What a user types to run `part` without this command.
    pub(super) fn command_line(&self, part: &Part) -> String {
        let words = [self.program.as_os_str()]
            .into_iter()
            .chain(part.arguments.iter().map(OsString::as_os_str));
        let behind = behind_dashes(&part.behind);
        let words = words.chain(behind.iter().map(OsString::as_os_str));
        let words: Vec<String> = words.map(plain_word).collect();
        words.join(" ")
    }

    /// Runs `part` on this machine; why it failed, if it did.
    pub(super) fn run_here(&self, part: &Part, json: &Path) -> Result<Option<String>> {
        let status = Command::new(&self.program)
            .args(&part.arguments)
            .arg("--json")
            .arg(json)
            .args(behind_dashes(&part.behind))
            .status()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        Ok((!status.success()).then(|| format!("the quickstart ended with {status}")))
    }

    /// Runs `part` in the emulated host, with its JSON to `folder`; why it
    /// failed, if it did.
    pub(super) fn run_emulated(&self, workspace: &Workspace, part: &Part, folder: &Path) -> Result<Option<String>> {
        let mut command = vec![self.program.clone().into_os_string()];
        command.extend(part.arguments.iter().chain(&part.emulated_arguments).cloned());
        command.extend(["--json".into(), "/out/part.json".into()]);
        command.extend(behind_dashes(&part.behind));
        let mut run = HostRun::new(command);
        run.environment = kvm_host::passed_on_variables();
        run.timeout = EMULATED_TIMEOUT;
        run.out = Some(folder.to_path_buf());
        run.carried.extend(part.files.iter().map(|file| Carried::Path {
            source: file.clone(),
            destination: file.clone(),
        }));
        Ok(match kvm_host::run(workspace, &run, io::stdout(), io::stderr())? {
            Ending::Exited(0) => None,
            Ending::Exited(status) => Some(format!("the quickstart ended with exit status: {status}")),
            Ending::TimedOut(last_words) => {
                let seconds = EMULATED_TIMEOUT.as_secs();
                Some(format!(
                    "no end within {seconds} s; the emulated host said last:\n{last_words}"
                ))
            }
            Ending::Died(last_words) => Some(format!("the emulated host died; it said last:\n{last_words}")),
        })
    }
}

/// A word of a command line, quoted only where a shell needs it.
fn plain_word(word: &std::ffi::OsStr) -> String {
    let text = word.to_string_lossy();
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-".contains(character);
    match text.chars().all(is_plain) {
        true => text.into_owned(),
        false => String::from_utf8_lossy(&shell_word(word)).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_can_be_typed() {
        let quickstart = Quickstart {
            program: "/a b/quickstart".into(),
        };
        assert_eq!(quickstart.command_line(&Part::web()), "'/a b/quickstart' web");
    }
}
