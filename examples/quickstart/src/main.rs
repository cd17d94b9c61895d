//! A first look at the SDK. Begin with `web.rs`: it is the whole life of a sandbox.
//!
//! | file | what it shows |
//! |---|---|
//! | `web.rs` | a web server without an operating system: described, booted, asked for its page, taken apart |
//! | `boot.rs` | any unikernel that somebody brings: recognised from its file, and told its arguments, address and disks |
//! | `clones.rs` | a snapshot of a running guest, a sandbox restored from it, and ten forks |
//! | `linux.rs` | a stock Linux kernel, up to its init and to its power-off |
//! | `timeline.rs` | reading the timeline that every sandbox keeps: which phase took how long, and whose time it was |
//! | `network.rs` | finding addresses for a sandbox that this machine does not use |
//! | `holdings.rs` | what this process holds, to see that a sandbox leaves nothing behind |

mod boot;
mod clones;
mod holdings;
mod http;
mod image;
mod linux;
mod network;
mod options;
mod report;
mod succession;
mod timeline;
mod web;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use sandbox::Runtime;

use holdings::Holdings;
use options::{Guest, Options};
use report::{Left, Report};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = Options::parse(lexopt::Parser::from_env())?;
    let before = Holdings::now()?;

    // A program has one runtime, which opens /dev/kvm when the first sandbox needs it.
    let runtime = Runtime::new();
    let life = match &options.guest {
        Guest::Web => web::run(&runtime)?,
        Guest::Linux(files) => linux::run(&runtime, files)?,
        Guest::Own(guest) => boot::run(&runtime, guest)?,
    };
    let clones = match &options.guest {
        Guest::Web => Some(clones::run(&runtime)?),
        _ => None,
    };
    drop(runtime);

    let left = Left {
        holdings: Holdings::now_without_joined_threads(&before)?,
        interface: match &life.interface {
            Some(name) => network::interface_exists(name)?,
            None => false,
        },
    };
    let report = Report { life, left };
    print!("{}", report.text());
    if let Some(clones) = clones {
        print!("{}", clones.text());
    }
    if let Some(file) = &options.json {
        report.write_json(file)?;
    }
    if let Guest::Own(guest) = &options.guest {
        let exit = &report.life.exit;
        ensure!(boot::is_well(guest, exit), "the guest ended by {exit}");
    }
    ensure!(report.left.is_nothing(), "the sandbox left something behind");
    Ok(())
}
