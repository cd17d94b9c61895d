//! The experiments, run as a program.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Folder, in_namespace, interfaces, program};

const SHORT: [&str; 10] = [
    "bench",
    "--listen",
    "127.0.0.1:0",
    "--quick",
    "--rounds",
    "1",
    "--instances",
    "2",
    "--only",
    "hello",
];

#[test]
fn a_run_writes_its_tables_and_plots_and_says_why_a_cell_failed() {
    in_namespace(|| {
        let folder = Folder::new();
        let output = program(&SHORT)
            .args([
                "artefact",
                "cold-start",
                "burst",
                "start-cost",
                "idle-instructions",
                "--out",
            ])
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let results: Value = serde_json::from_str(&read("results.json")).unwrap();
        let mut failed = Vec::new();
        for result in results.as_array().unwrap() {
            if let Some(reason) = result["outcome"]["failed"]["reason"].as_str() {
                assert_eq!(result["cell"]["experiment"], "idle-instructions", "{reason}");
                failed.push(reason);
            }
        }
        let page = read("report.html");
        for figure in [
            "Edge paper, figure 3",
            "Edge paper, figure 4",
            "Edge paper, figure 6",
            "Thesis, figure 5.3",
        ] {
            assert!(page.contains(figure), "{figure}");
        }
        assert!(page.contains("Linux on Firecracker"), "the paper's own values");
        // A host with a counter of instructions fails none.
        for reason in failed {
            assert!(reason.contains("no counter of instructions"), "{reason}");
            assert!(page.contains("no counter of instructions"));
        }
        assert!(read("results.csv").lines().count() > 10);
        assert_eq!(interfaces(), 1, "only lo is left");
    });
}

#[test]
fn a_run_whose_reader_has_gone_ends_in_order_with_what_was_measured() {
    in_namespace(|| {
        let folder = Folder::new();
        let mut bench = program(&SHORT)
            .args(["artefact", "cold-start", "--out"])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(bench.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let output = bench.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.is_empty(), "{said}");
        assert!(folder.path().join("report.html").exists());
        assert_eq!(interfaces(), 1, "only lo is left");
    });
}
