//! The program of worker processes, for embedders whose own program cannot be it: those that are no Rust programs, and
//! test programs.
//!
//! The library starts it. By hand it tells which system calls a worker's threads may make.

use std::process::ExitCode;

const USAGE: &str = "\
This program is started by the sandbox library, with a control socket as its standard input.
  sandbox-worker seccomp-report    prints the system calls that workers may make";

fn main() -> ExitCode {
    sandbox::worker::run_if_worker();
    match std::env::args().nth(1).as_deref() {
        Some("seccomp-report") => {
            print!("{}", sandbox::worker::seccomp_report());
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
