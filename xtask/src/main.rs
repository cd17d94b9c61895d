//! The project's own commands, run as `cargo xtask COMMAND`.

mod archive;
mod assets;
mod bench;
mod cache;
mod demo;
mod elf;
mod ext4;
mod functions;
mod fuzz;
mod host_kind;
mod install;
mod kvm_host;
mod packages;
mod process;
mod scratch;
mod seccomp_report;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};
use lexopt::prelude::*;

use workspace::Workspace;

/// A command: what users type, what it does, and how it is described to them.
struct Subcommand {
    name: &'static str,
    usage: &'static str,
    main: fn(&Workspace, lexopt::Parser) -> Result<ExitCode>,
}

const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand {
        name: "demo",
        usage: demo::USAGE,
        main: demo::main,
    },
    Subcommand {
        name: "test",
        usage: test::USAGE,
        main: test::main,
    },
    Subcommand {
        name: "soak",
        usage: test::SOAK_USAGE,
        main: test::soak,
    },
    Subcommand {
        name: "bench",
        usage: bench::USAGE,
        main: bench::main,
    },
    Subcommand {
        name: "kvm-host",
        usage: kvm_host::USAGE,
        main: kvm_host::main,
    },
    Subcommand {
        name: "seccomp-report",
        usage: seccomp_report::USAGE,
        main: seccomp_report::main,
    },
    Subcommand {
        name: "assets",
        usage: assets::USAGE,
        main: assets::main,
    },
    Subcommand {
        name: "fuzz",
        usage: fuzz::USAGE,
        main: fuzz::main,
    },
    Subcommand {
        name: "functions",
        usage: functions::USAGE,
        main: functions::main,
    },
    Subcommand {
        name: "install",
        usage: install::USAGE,
        main: install::main,
    },
];

fn main() -> ExitCode {
    match dispatch(lexopt::Parser::from_env()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(mut arguments: lexopt::Parser) -> Result<ExitCode> {
    let name = match arguments.next()? {
        Some(Value(name)) => name,
        Some(Short('h') | Long("help")) => "help".into(),
        Some(other) => return Err(other.unexpected().into()),
        None => bail!("which command?\n{}", usage()),
    };
    if name == "help" {
        println!("{}", usage());
        return Ok(ExitCode::SUCCESS);
    }
    match SUBCOMMANDS.iter().find(|command| name == command.name) {
        Some(command) => (command.main)(&Workspace::locate()?, arguments),
        None => bail!("there is no command {}\n{}", name.display(), usage()),
    }
}

fn usage() -> String {
    let mut text = String::from("usage: cargo xtask COMMAND\n");
    for command in SUBCOMMANDS {
        text += "\n";
        text += command.usage;
        text += "\n";
    }
    text
}
