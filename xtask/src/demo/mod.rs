//! `cargo xtask demo`: what the SDK does, shown on this machine, or in the
//! emulated KVM host where this machine cannot.
//!
//! The guests are booted by `examples/quickstart`; this command brings it to
//! where it can run.

mod own;
mod place;
mod quickstart;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use lexopt::prelude::*;
use serde_json::{Value, json};

use crate::scratch::Scratch;
use crate::workspace::Workspace;

use own::Own;
use place::{Abilities, Place};
use quickstart::{Part, Quickstart};

/// What `cargo xtask help` says about it.
pub(crate) const USAGE: &str = "\
demo [OPTIONS]                   boot a web server in a micro-VM, fetch its page, show the timeline
    --linux             boot stock Debian Linux as well
    --guest FILE        boot this unikernel instead, whatever its family; its arguments stand behind --
        --initrd FILE, --disk [NAME=]FILE, --memory MIB, --http PORT/PATH, --network NAME, --marker TEXT,
        --env NAME=VALUE, --protocol linux64|pvh, --patience SECONDS: what it is given, and waited for;
        --clones N: it is saved when it is ready, and N clones take its place in turn; --rounds N: boots it
        N times and tells how long each took; --pool N: with N virtual machines made ahead of time
    --json FILE         write result and timeline to FILE too
    --emulated          use the emulated host, whatever this machine can do";

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    linux: bool,
    emulated: bool,
    guest: Option<Own>,
    json: Option<PathBuf>,
}

/// Runs the parts of the demo; the status tells whether all of them went well.
pub(crate) fn main(workspace: &Workspace, arguments: lexopt::Parser) -> Result<ExitCode> {
    let options = parse(arguments)?;
    // First of all: this boots a guest too, and right behind the end of a
    // guest the kernel takes longer to set up the next one.
    let abilities = match options.emulated {
        true => Abilities::unused("--emulated was given"),
        false => Abilities::of_this_machine(),
    };
    let quickstart = Quickstart::build(workspace)?;
    let mut parts = match options.guest {
        Some(own) => vec![Part::own(own)],
        None => vec![Part::web()],
    };
    if options.linux {
        parts.push(Part::linux(workspace)?);
    }
    let mut results = Vec::new();
    let mut all_well = true;
    for part in &parts {
        let result = show(workspace, &quickstart, part, &abilities)?;
        all_well &= result.get("failed").is_none();
        results.push(result);
    }
    if let Some(file) = &options.json {
        write_json(file, results)?;
    }
    Ok(match all_well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Runs the whole demo as a user would, and checks what it wrote: both guests, none failed, and phases up to the one in
/// which nothing is left.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let scratch = Scratch::below(&workspace.target().join("xtask"), "demo-check")?;
    let file = scratch.path().join("demo.json");
    let arguments = [OsStr::new("--linux"), OsStr::new("--json"), file.as_os_str()];
    let status = main(workspace, lexopt::Parser::from_args(arguments))?;
    ensure!(status == ExitCode::SUCCESS, "a part of the demo failed");
    check_results(&serde_json::from_slice(&fs::read(&file)?)?)
}

fn check_results(written: &Value) -> Result<()> {
    let parts = written["demo"].as_array().context("the demo wrote no parts")?;
    let guests: Vec<_> = parts.iter().filter_map(|part| part["guest"].as_str()).collect();
    ensure!(guests == ["http-reply", "linux"], "the demo's guests were {guests:?}");
    for part in parts {
        ensure!(part.get("failed").is_none(), "a part failed: {part}");
        let phases = part["timeline"].as_array().context("a part has no timeline")?;
        ensure!(!phases.is_empty(), "a part's timeline is empty");
        for what in ["descriptors", "threads", "interfaces"] {
            ensure!(part["left"][what] == 0, "{what} are left: {}", part["left"]);
        }
    }
    Ok(())
}

fn parse(mut arguments: lexopt::Parser) -> Result<Options> {
    let mut options = Options::default();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("linux") => options.linux = true,
            Long("emulated") => options.emulated = true,
            Long("json") => options.json = Some(arguments.value()?.into()),
            Long("guest") if options.guest.is_none() => {
                options.guest = Some(Own::new(&arguments.value()?)?);
            }
            Long(name) if options.guest.is_some() && Own::knows(name) => {
                let name = name.to_owned();
                let value = arguments.value()?;
                if let Some(own) = &mut options.guest {
                    own.option(&name, value)?;
                }
            }
            Value(word) if options.guest.is_some() => {
                if let Some(own) = &mut options.guest {
                    own.arguments.push(word);
                }
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}

/// Shows one part where it can be shown, and returns what came of it.
fn show(workspace: &Workspace, quickstart: &Quickstart, part: &Part, abilities: &Abilities) -> Result<Value> {
    let scratch = Scratch::below(&workspace.target().join("xtask"), "demo")?;
    let file = scratch.path().join("part.json");
    println!("== {}", part.title);
    let place = abilities.place_for(part.needs);
    let status = match &place {
        Place::Here => {
            println!(
                "   on this machine's /dev/kvm ({}: {})",
                abilities.kind.name(),
                abilities.kvm_reason
            );
            quickstart.run_here(part, &file)?
        }
        Place::Emulated { reason } => {
            println!("   in the emulated KVM host, because {reason}");
            println!("   (a processor in software: every time below is a multiple of what hardware takes)");
            if abilities.root_could_run(part.needs) {
                println!(
                    "   to see it on this machine's /dev/kvm, run as root: {}",
                    quickstart.command_line(part)
                );
            }
            quickstart.run_emulated(workspace, part, scratch.path())?
        }
    };
    let mut result = match fs::read(&file) {
        Ok(json) => serde_json::from_slice(&json).context("the quickstart wrote no JSON")?,
        Err(_) => json!({"guest": part.guest}),
    };
    result["where"] = place.name().into();
    if let Some(failure) = status {
        println!("   FAILED: {failure}");
        result["failed"] = failure.into();
    }
    Ok(result)
}

/// Writes one object with all parts.
fn write_json(file: &Path, parts: Vec<Value>) -> Result<()> {
    let text = format!("{:#}\n", json!({"demo": parts}));
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Options> {
        parse(lexopt::Parser::from_args(arguments))
    }

    #[test]
    fn options_are_read() {
        assert_eq!(parsed(&[]).unwrap(), Options::default());
        let all = Options {
            linux: true,
            emulated: true,
            guest: None,
            json: Some("file".into()),
        };
        assert_eq!(parsed(&["--linux", "--json", "file", "--emulated"]).unwrap(), all);
    }

    #[test]
    fn a_guest_is_brought_with_its_files_and_arguments() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let disk = format!("root={file}");
        let options = parsed(&["--guest", file, "--disk", &disk, "--memory", "16", "--", "--x", "y"]).unwrap();
        let own = options.guest.unwrap();
        assert_eq!(own.files.len(), 2);
        assert_eq!(own.options, ["--disk", &disk, "--memory", "16"]);
        assert_eq!(own.arguments, ["--x", "y"]);
    }

    #[test]
    fn a_demo_that_leaves_something_or_shows_nothing_is_found_out() {
        let part = |guest: &str, left: u32| {
            let left = json!({"descriptors": left, "threads": 0, "interfaces": 0});
            json!({"guest": guest, "timeline": [{}], "left": left})
        };
        let good = json!({"demo": [part("http-reply", 0), part("linux", 0)]});
        check_results(&good).unwrap();
        let bad = [
            json!({}),
            json!({"demo": [part("http-reply", 0)]}),
            json!({"demo": [part("http-reply", 0), part("linux", 1)]}),
            json!({"demo": [part("http-reply", 0), {"guest": "linux", "failed": "why"}]}),
        ];
        assert!(bad.iter().all(|written| check_results(written).is_err()));
    }

    #[test]
    fn wrong_options_are_refused() {
        let missing = ["--guest", "/nonexistent/guest"];
        for arguments in [
            &["--windows"][..],
            &["linux"],
            &["--json"],
            &["--memory", "16"],
            &missing,
        ] {
            assert!(parsed(arguments).is_err(), "{arguments:?}");
        }
    }
}
