//! How many system calls the SDK makes between the caller's `create` and the guest's first instruction.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::process;

/// The program marks the beginning of the cold start that counts with this call, which it does not make otherwise.
const MARKER: &str = "getppid(";
const RUN: &str = "KVM_RUN";

/// Traces one cold start of `hello`, prints the count and appends it to `json`.
pub(super) fn count(bench: &Path, json: &Path) -> Result<()> {
    let trace = json.with_extension("strace");
    process::run(
        process::tool("strace")
            .args(["-f", "-o"])
            .arg(&trace)
            .arg(bench)
            .arg("once"),
    )?;
    let text = fs::read_to_string(&trace).with_context(|| format!("cannot read {}", trace.display()))?;
    let calls = calls_before_run(&text);
    ensure!(!calls.is_empty(), "the trace has no KVM_RUN behind its marker");
    let ioctls = calls.iter().filter(|call| call.contains("KVM_")).count();
    println!(
        "\nsystem calls from create to the first KVM_RUN: {}, of them KVM's: {ioctls}",
        calls.len()
    );
    let line = json!({
        "bench": "cold-start", "where": "kvm", "case": "sdk/hello/in_process", "metric": "syscalls_before_run",
        "unit": "count", "n": 1, "p50": calls.len(),
    });
    let mut file = fs::OpenOptions::new().create(true).append(true).open(json)?;
    writeln!(file, "{line}")?;
    Ok(())
}

/// The calls of all threads between the marker and the first KVM_RUN, each once.
fn calls_before_run(trace: &str) -> Vec<&str> {
    let mut lines = trace.lines().skip_while(|line| !line.contains(MARKER)).skip(1);
    let mut calls = Vec::new();
    for line in lines.by_ref() {
        if line.contains(RUN) {
            return calls;
        }
        // The second half of a call that another thread's line cut in two, and notes of signals and exits.
        if !line.contains("resumed>") && line.contains('(') {
            calls.push(line);
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
1 ioctl(3, KVM_CREATE_VM) = 4
1 getppid() = 0
1 ioctl(3, KVM_CREATE_VM) = 4
1 clone3( <unfinished ...>
2 rseq(0) = 0
1 <... clone3 resumed>) = 2
2 ioctl(5, KVM_RUN) = 0
1 write(1, \"x\") = 1
";

    #[test]
    fn calls_between_marker_and_run_count_once() {
        assert_eq!(calls_before_run(TRACE).len(), 3);
        assert!(calls_before_run("1 getppid() = 0\n").is_empty());
    }
}
