//! `cargo xtask fuzz`: libFuzzer over the targets in `fuzz/`, with AddressSanitizer where the nightly toolchain is there.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use crate::packages::{self, Package};
use crate::process;
use crate::workspace::Workspace;

/// What `cargo xtask help` says about it.
pub(crate) const USAGE: &str = "\
fuzz [OPTIONS] [TARGET…]         run the fuzz targets, all of them unless some are named
    --seconds N         for each of them (default 60)
    --keep              add what reaches new code to the kept corpus";

const PACKAGES: &[Package] = &[Package {
    name: "g++",
    why: "compiles libFuzzer",
}];

/// Build scripts and the compiler's plugins are built for the host: with a target named, they are left uninstrumented.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Coverage as libFuzzer reads it, on any toolchain.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
const ADDRESS_SANITIZER: &str = "-Zsanitizer=address";

/// Longest input, in bytes; larger ones only take longer.
const MAX_LEN: u32 = 4096;
/// The same of targets whose smallest sound input is longer: a state file, an archive of a few entries.
const LONG_INPUTS: [(&str, u32); 2] = [("snapshot_state", 32 << 10), ("image_layer", 16 << 10)];
/// One input may take so long, in seconds, before it is a finding.
const INPUT_TIMEOUT: u32 = 10;
/// What the target may take of memory, in MiB, before that is a finding.
const MEMORY_MIB: u32 = 2048;

struct Options {
    seconds: u32,
    keep: bool,
    targets: Vec<String>,
}

/// Runs what the arguments name; fails at the first finding.
pub(crate) fn main(workspace: &Workspace, arguments: lexopt::Parser) -> Result<ExitCode> {
    let options = parse(arguments)?;
    run(workspace, &options)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs every target for so many seconds over the kept corpus.
pub(crate) fn check(workspace: &Workspace, seconds: u32) -> Result<()> {
    let options = Options {
        seconds,
        keep: false,
        targets: Vec::new(),
    };
    run(workspace, &options)
}

fn parse(mut arguments: lexopt::Parser) -> Result<Options> {
    let mut options = Options {
        seconds: 60,
        keep: false,
        targets: Vec::new(),
    };
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("seconds") => options.seconds = arguments.value()?.parse()?,
            Long("keep") => options.keep = true,
            Value(target) => options.targets.push(target.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}

fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    packages::ensure(PACKAGES)?;
    let all = targets(workspace)?;
    if let Some(unknown) = options.targets.iter().find(|target| !all.contains(target)) {
        bail!("there is no target {unknown}; there are {}", all.join(", "));
    }
    let programs = build(workspace)?;
    let wanted = if options.targets.is_empty() {
        &all
    } else {
        &options.targets
    };
    for target in wanted {
        let run = Run::new(workspace, &programs, target)?;
        run.fuzz(options.seconds)?;
        if options.keep {
            run.keep()?;
        }
    }
    Ok(())
}

/// The names of the targets, which are those of their sources.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(workspace.root().join("fuzz/targets"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Builds all targets, and says how; returns the folder of the programs.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let nightly = has_nightly();
    println!(
        "   {}",
        match nightly {
            true => "on the nightly toolchain, with AddressSanitizer and debug assertions",
            false => "on this toolchain, with debug assertions; AddressSanitizer needs the nightly one",
        }
    );
    let (mut cargo, flags) = match nightly {
        true => {
            let mut rustup = process::tool("rustup");
            rustup.args(["run", "nightly", "cargo"]).current_dir(workspace.root());
            (rustup, format!("{COVERAGE} {ADDRESS_SANITIZER}"))
        }
        false => (workspace.cargo(), COVERAGE.to_owned()),
    };
    let target = workspace.target().join("fuzz");
    let status = cargo
        .args([
            "build",
            "--release",
            "--manifest-path",
            "fuzz/Cargo.toml",
            "--target",
            TRIPLE,
        ])
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", flags)
        // Cargo sets these for what it runs, this program among them; they name the toolchain that is not wanted.
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env_remove("RUSTUP_TOOLCHAIN")
        .status()
        .context("cannot run cargo")?;
    match status.success() {
        true => Ok(target.join(TRIPLE).join("release")),
        false => bail!("cargo could not build the fuzz targets"),
    }
}

fn has_nightly() -> bool {
    let mut command = process::tool("rustup");
    command.args(["run", "nightly", "rustc", "--version"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// One target and its folders.
struct Run<'a> {
    target: &'a str,
    program: PathBuf,
    /// What this machine found so far.
    found: PathBuf,
    /// What is checked in.
    kept: PathBuf,
    findings: PathBuf,
}

impl<'a> Run<'a> {
    fn new(workspace: &Workspace, programs: &Path, target: &'a str) -> Result<Self> {
        let run = Self {
            target,
            program: programs.join(target),
            found: workspace.target().join("fuzz/corpus").join(target),
            kept: workspace.root().join("fuzz/corpus").join(target),
            findings: workspace.target().join("fuzz/findings").join(target),
        };
        for folder in [&run.found, &run.kept, &run.findings] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(run)
    }

    fn fuzz(&self, seconds: u32) -> Result<()> {
        let mut command = self.command();
        command.arg(format!("-max_total_time={seconds}"));
        command.arg("-print_final_stats=1").args([&self.found, &self.kept]);
        let output = command.output().context("cannot run the target")?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("{} has a finding, in {}:\n{text}", self.target, self.findings.display());
        }
        println!("   {}: {}", self.target, summary(&text));
        Ok(())
    }

    /// Adds what reaches code that the kept corpus does not.
    fn keep(&self) -> Result<()> {
        process::run(self.command().arg("-merge=1").args([&self.kept, &self.found]))
    }

    fn command(&self) -> Command {
        let mut artifacts = OsString::from("-artifact_prefix=");
        artifacts.push(self.findings.join(""));
        let mut command = Command::new(&self.program);
        command
            .arg(format!("-max_len={}", longest_input(self.target)))
            // From the first input on: a driver's session takes more than the few bytes that libFuzzer begins with.
            .arg("-len_control=0")
            .arg(format!("-timeout={INPUT_TIMEOUT}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
            .arg(artifacts);
        command
    }
}

fn longest_input(target: &str) -> u32 {
    let long = LONG_INPUTS.iter().find(|(name, _)| *name == target);
    long.map_or(MAX_LEN, |(_, longest)| *longest)
}

/// What libFuzzer says at the end: how many inputs it ran, and the last line's coverage and corpus.
fn summary(text: &str) -> String {
    let runs = text
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let coverage = text.lines().rev().find_map(|line| line.split_once(" cov:"));
    let coverage = coverage.map(|(_, rest)| rest.trim());
    format!("{} runs, cov: {}", runs.unwrap_or("?").trim(), coverage.unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read_from_what_libfuzzer_says() {
        let text = "#1\tINITED cov: 2 ft: 3 corp: 1/1b\n#90\tDONE   cov: 12 ft: 13 corp: 5/9b\n###### Dictionary. ######\n\
                    stat::number_of_executed_units: 90\n";
        assert_eq!(summary(text), "90 runs, cov: 12 ft: 13 corp: 5/9b");
    }

    #[test]
    fn options_are_read() {
        let parsed = parse(lexopt::Parser::from_args(["--seconds", "3", "--keep", "spec"])).unwrap();
        assert_eq!(
            (parsed.seconds, parsed.keep, parsed.targets),
            (3, true, vec!["spec".to_owned()])
        );
        assert!(parse(lexopt::Parser::from_args(["--minutes", "3"])).is_err());
    }
}
