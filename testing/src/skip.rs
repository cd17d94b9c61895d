//! Tests that find out at run time that this host cannot run them.

use std::fs::OpenOptions;
use std::io::Write;
use std::thread;

/// The file that skips are told to, one line each: the test's name, a tabulator, the reason. `cargo xtask test` names
/// it, and compares what it says with what is expected of such a host.
const VARIABLE: &str = "SANDBOX_SKIP_FILE";

/// Says that the running test is skipped, and why. To be called on the test's own thread, which bears its name.
pub fn skip(reason: &str) {
    let thread = thread::current();
    skip_test(thread.name().unwrap_or("unnamed"), reason);
}

/// Says that the test of this name is skipped, and why.
pub fn skip_test(name: &str, reason: &str) {
    eprintln!("skipped {name}: {reason}");
    if let Some(path) = std::env::var_os(VARIABLE) {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        // One write, so that lines of tests that run at the same time stay whole.
        file.write_all(format!("{name}\t{reason}\n").as_bytes()).unwrap();
    }
}
