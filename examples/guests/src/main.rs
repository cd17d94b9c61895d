//! Writes the guests into a directory: `sandbox-guests DIRECTORY`.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [directory] = arguments.as_slice() else {
        eprintln!("usage: sandbox-guests DIRECTORY");
        return ExitCode::FAILURE;
    };
    let directory = PathBuf::from(directory);
    match sandbox_guests::write_to(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the guests cannot be written to {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}
