//! The papers' functions, each called through the platform, behind every wall that the host has.
//!
//! `cargo xtask test` builds them and says by [`FUNCTIONS`] where they are.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod answers;
#[path = "../platform/support.rs"]
#[allow(dead_code, reason = "shared with the tests of the platform")]
mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sandbox::{Backend, Runtime};
use serde_json::{Value, json};

use support::{Answer, Folder, Platform, in_namespace, interfaces, skip};

/// Names the folder of the functions.
const FUNCTIONS: &str = "SANDBOX_TEST_FUNCTIONS";
/// A matrix of 1024 rows takes its time on an emulated processor.
const CALL_MS: u64 = 540_000;

/// The first mebibyte of a file.
const PART: &str = "Range: bytes=0-1048575\r\n";
const PART_BYTES: usize = 1 << 20;

/// The documents of all functions behind `wall`; none, and a skip, where they were not built.
fn functions(wall: &str) -> Vec<Value> {
    let Some(folder) = std::env::var_os(FUNCTIONS).map(PathBuf::from) else {
        skip("needs the functions that cargo xtask test builds");
        return Vec::new();
    };
    let text = std::fs::read_to_string(folder.join("functions.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let all = document["functions"].as_array().unwrap();
    let behind = |function: &&Value| function["name"].as_str().unwrap().ends_with(&format!("-{wall}"));
    all.iter().filter(behind).cloned().collect()
}

/// Whether the KVM of this host runs stock Linux. Says that this test was skipped where it does not.
fn runs_linux() -> bool {
    let is_complete = |(fact, value): &(String, String)| fact == "kvm" && value == "complete";
    let complete = Runtime::new()
        .kvm()
        .is_ok_and(|backend| backend.probe().facts.iter().any(is_complete));
    if !complete {
        skip("needs a KVM that executes every instruction");
    }
    complete
}

/// Whether this host has the runtime. Says that this test was skipped where it does not.
fn has_runtime(name: &str) -> bool {
    let found = ["/usr/bin", "/usr/sbin"]
        .iter()
        .any(|folder| Path::new(folder).join(name).exists());
    if !found {
        skip(&format!("needs {name}"));
    }
    found
}

/// Calls every function behind `wall` and compares what it says.
fn all_answer(wall: &str) {
    let functions = functions(wall);
    if functions.is_empty() {
        return;
    }
    assert_eq!(functions.len(), 10, "eight in Go, one in Node.js, one in C");
    let platform = Platform::serve(&[]);
    for mut function in functions {
        let name = function["name"].as_str().unwrap().to_owned();
        function["timeout_ms"] = json!(CALL_MS);
        function["scale"] = json!({"max": 1, "queue_ms": CALL_MS, "start_ms": CALL_MS});
        platform.deploy_document(&function.to_string());
        // All of the file takes minutes through an emulated network.
        let range = if name.starts_with("file-") && wall != "runc" {
            PART
        } else {
            ""
        };
        let answer = ask(&platform, &format!("/function/{name}"), range);
        if let Some(reason) = no_networks(&answer) {
            return skip(&reason);
        }
        assert!(matches!(answer.status, 200 | 206), "{name}: {}", answer.body);
        match answer.status {
            206 => assert_eq!(answer.body.len(), PART_BYTES, "{name}"),
            _ => answers::check(&name, &answer.body),
        }
        println!("{name}: as expected");
        // One at a time: each has half a gigabyte.
        let removal = json!({"functionName": name}).to_string();
        assert_eq!(platform.request("DELETE", "/system/functions", &removal).status, 202);
    }
    assert!(platform.end().success());
    assert_eq!(interfaces(), 1, "only lo is left");
}

/// Why this host's kernel and runsc do not agree about networks, if they do not.
fn no_networks(answer: &Answer) -> Option<String> {
    const REASON: &str = "takes every network namespace of this host's kernel for the host's own";
    (answer.status == 502 && answer.reason().contains(REASON)).then(|| format!("runsc here {REASON}"))
}

fn get(platform: &Platform, path: &str) -> Answer {
    ask(platform, path, "")
}

/// A GET with further headers.
fn ask(platform: &Platform, path: &str, headers: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: platform\r\nConnection: close\r\n{headers}\r\n");
    Answer::within(platform.address, request.as_bytes(), Duration::from_millis(CALL_MS))
}

#[test]
fn all_functions_answer_in_runc() {
    in_namespace(|| {
        if has_runtime("runc") {
            all_answer("runc");
        }
    });
}

#[test]
fn all_functions_answer_in_runsc() {
    in_namespace(|| {
        if has_runtime("runsc") {
            all_answer("runsc");
        }
    });
}

#[test]
fn all_functions_answer_in_linux() {
    in_namespace(|| {
        if runs_linux() {
            all_answer("linux");
        }
    });
}

#[test]
fn clones_of_linux_answer_each_by_an_address_of_its_own() {
    in_namespace(|| {
        if !runs_linux() {
            return;
        }
        let functions = functions("linux");
        let Some(noop) = functions.iter().find(|function| function["name"] == "noop-c-linux") else {
            return;
        };
        let state = Folder::new();
        let platform = Platform::serve(&["--state", state.path().to_str().unwrap()]);
        for start in ["fork", "restore", "pool"] {
            let mut function = noop.clone();
            function["name"] = json!(start);
            function["start"] = json!(start);
            function["scale"] = json!({"start_ms": CALL_MS, "queue_ms": CALL_MS});
            platform.deploy_document(&function.to_string());
            let booted = get(&platform, &format!("/pre-boot/{start}/3"));
            assert_eq!(booted.status, 200, "{start}: {}", booted.body);
            assert_eq!(booted.json()["started"], 3, "{start}");
            for _ in 0..6 {
                let answer = get(&platform, &format!("/function/{start}"));
                assert_eq!(answer.status, 200, "{start}: {}", answer.body);
            }
            let removal = json!({"functionName": start}).to_string();
            assert_eq!(platform.request("DELETE", "/system/functions", &removal).status, 202);
        }
        assert!(platform.end().success());
        assert_eq!(interfaces(), 1, "only lo is left");
    });
}
