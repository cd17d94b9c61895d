//! `cargo xtask kvm-host`: the command line of the emulated host.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use super::{Carried, Ending, HostRun, run};
use crate::workspace::Workspace;

/// What `cargo xtask help` says about it.
pub(crate) const USAGE: &str = "\
kvm-host [OPTIONS] -- COMMAND…   run a command on an emulated machine with hardware KVM
    --icount            let its clock count instructions, 1 ns each
    --cpus N            processors (default 1)
    --memory MIB        memory (default: enough for what is inside)
    --timeout SECONDS   kill it after this time (default 540)
    --with PATH[:DEST]  put a file, program or folder inside; repeatable
    --env NAME=VALUE    set a variable; SANDBOX_* and RUST_* are passed on anyway
    --assets            put the kernels and disks of the tests inside
    --out DIR           fetch what the command leaves in /out";

/// Statuses beside the command's own, as `timeout` and container runtimes have.
const TIMED_OUT: u8 = 124;
const HOST_DIED: u8 = 125;

/// Runs the command that the arguments describe and returns its exit status.
pub(crate) fn main(workspace: &Workspace, arguments: lexopt::Parser) -> Result<ExitCode> {
    let host_run = parse(arguments)?;
    let ending = run(workspace, &host_run, io::stdout(), io::stderr())?;
    Ok(ExitCode::from(match ending {
        Ending::Exited(status) => status,
        Ending::TimedOut(last_words) => {
            eprintln!(
                "error: the command did not end within {} seconds, and the emulated host was \
                 killed; it said last:\n{last_words}",
                host_run.timeout.as_secs()
            );
            TIMED_OUT
        }
        Ending::Died(last_words) => {
            eprintln!("error: the emulated host ended before the command did; it said last:\n{last_words}");
            HOST_DIED
        }
    }))
}

fn parse(mut arguments: lexopt::Parser) -> Result<HostRun> {
    let mut host_run = HostRun::new(Vec::new());
    host_run.directory = std::env::current_dir()?;
    host_run.environment = passed_on_variables();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("icount") => host_run.icount = true,
            Long("assets") => host_run.assets = true,
            Long("cpus") => host_run.cpus = arguments.value()?.parse()?,
            Long("memory") => host_run.memory_mib = Some(arguments.value()?.parse()?),
            Long("timeout") => {
                host_run.timeout = Duration::from_secs(arguments.value()?.parse()?);
            }
            Long("with") => host_run.carried.push(carried(&arguments.value()?)?),
            Long("env") => host_run.environment.push(variable(&arguments.value()?)?),
            Long("out") => host_run.out = Some(arguments.value()?.into()),
            Value(word) => {
                host_run.command.push(word);
                host_run.command.extend(arguments.raw_args()?);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if host_run.command.is_empty() {
        bail!("kvm-host needs a command to run, after --");
    }
    Ok(host_run)
}

/// Variables of this process that steer the project's own programs.
pub(crate) fn passed_on_variables() -> Vec<(OsString, OsString)> {
    std::env::vars_os()
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            name.starts_with("SANDBOX_") || name.starts_with("RUST_")
        })
        .collect()
}

fn carried(argument: &OsStr) -> Result<Carried> {
    let text = argument.to_str().context("--with needs a UTF-8 path")?;
    let (source, destination) = match text.split_once(':') {
        Some((source, destination)) => (Path::new(source), PathBuf::from(destination)),
        None => (Path::new(text), std::path::absolute(text)?),
    };
    if !destination.is_absolute() {
        bail!("--with {text}: the destination is not an absolute path");
    }
    Ok(Carried::Path {
        source: source.to_path_buf(),
        destination,
    })
}

fn variable(argument: &OsStr) -> Result<(OsString, OsString)> {
    let text = argument.to_str().context("--env needs UTF-8")?;
    let (name, value) = text
        .split_once('=')
        .with_context(|| format!("--env {text}: there is no = in it"))?;
    Ok((name.into(), value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<HostRun> {
        parse(lexopt::Parser::from_args(arguments))
    }

    #[test]
    fn the_commands_own_options_stay_its_own() {
        let run = parsed(&["--icount", "--cpus", "2", "--", "sh", "-c", "--", "--cpus"]).unwrap();
        assert_eq!(run.command, ["sh", "-c", "--", "--cpus"]);
        assert!(run.icount);
        assert_eq!(run.cpus, 2);
        let run = parsed(&["sh", "--cpus"]).unwrap();
        assert_eq!(run.command, ["sh", "--cpus"]);
    }

    #[test]
    fn a_destination_follows_a_colon() {
        let run = parsed(&["--with", "x:/y/z", "--", "true"]).unwrap();
        assert!(matches!(
            &run.carried[..],
            [Carried::Path { source, destination }]
                if source == Path::new("x") && destination == Path::new("/y/z")
        ));
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for arguments in [
            &["--icount"][..],
            &["--cpus", "many", "--", "true"],
            &["--with", "x:relative", "--", "true"],
            &["--env", "NAME", "--", "true"],
            &["--no-such-option", "--", "true"],
        ] {
            assert!(parsed(arguments).is_err(), "{arguments:?}");
        }
    }
}
