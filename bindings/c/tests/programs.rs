//! The programs in `tests/c`: as they are, under AddressSanitizer and under valgrind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};

use support::{TempFolder, command, compile, flags, guests, has_kvm, prefix, repository, run};

/// Programs that boot guests.
const WITH_GUESTS: [&str; 6] = ["lifecycle", "misuse", "events", "threads", "snapshot", "process"];

/// Those of them that hold for guests in a worker process of their own as well.
const IN_WORKERS: [&str; 5] = ["lifecycle", "misuse", "events", "threads", "snapshot"];

/// What valgrind takes for an error. Memory that is only possibly lost is that of threads whose stacks the C library
/// keeps for the next ones.
const VALGRIND: [&str; 6] = [
    "--quiet",
    concat!("--suppressions=", env!("CARGO_MANIFEST_DIR"), "/tests/c/valgrind.supp"),
    "--leak-check=full",
    "--show-leak-kinds=definite,indirect",
    "--errors-for-leak-kinds=definite,indirect",
    "--error-exitcode=99",
];

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/c/{name}.c"))
}

#[test]
fn programs_do_what_the_header_says() {
    let Some(prefix) = prefix() else { return };
    if !has_kvm() {
        return;
    }
    let folder = TempFolder::new();
    for name in WITH_GUESTS {
        let program = folder.path().join(name);
        compile(&prefix, &source(name), &program, &["-O2"]);
        run(command(&program, &prefix).arg(guests()));
    }
}

#[test]
fn programs_do_the_same_with_guests_in_workers() {
    let Some(prefix) = prefix() else { return };
    if !has_kvm() {
        return;
    }
    let folder = TempFolder::new();
    for name in IN_WORKERS {
        let program = folder.path().join(name);
        compile(&prefix, &source(name), &program, &["-O2"]);
        run(command(&program, &prefix)
            .env("SANDBOX_TEST_ISOLATION", "worker")
            .arg(guests()));
    }
}

#[test]
fn address_sanitizer_finds_nothing() {
    let Some(prefix) = prefix() else { return };
    if !has_kvm() {
        return;
    }
    let folder = TempFolder::new();
    for name in WITH_GUESTS {
        let program = folder.path().join(name);
        compile(&prefix, &source(name), &program, &["-fsanitize=address,undefined"]);
        run(command(&program, &prefix).arg(guests()));
    }
}

#[test]
fn valgrind_finds_nothing() {
    let Some(prefix) = prefix() else { return };
    if !has_kvm() {
        return;
    }
    let folder = TempFolder::new();
    for name in WITH_GUESTS {
        let program = folder.path().join(name);
        compile(&prefix, &source(name), &program, &[]);
        let mut valgrind = command("valgrind", &prefix);
        valgrind.args(VALGRIND);
        if name == "process" {
            // In a forked child, what its parent's threads held looks lost.
            valgrind.arg("--leak-check=no");
        }
        run(valgrind.arg(&program).arg(guests()));
    }
}

#[test]
fn ten_thousand_handles_of_each_kind_leak_nothing() {
    let Some(prefix) = prefix() else { return };
    let folder = TempFolder::new();
    let program = folder.path().join("handles");
    compile(&prefix, &source("handles"), &program, &[]);
    let summary = folder.path().join("summary");
    run(command("valgrind", &prefix)
        .args(VALGRIND.iter().filter(|option| **option != "--quiet"))
        .arg(format!("--log-file={}", summary.display()))
        .arg(&program)
        .arg(guests()));
    // Nor is anything kept that is merely still pointed to, beyond what a process has once.
    let summary = std::fs::read_to_string(&summary).unwrap();
    let kept = summary.lines().find_map(|line| {
        let (_, rest) = line.split_once("in use at exit: ")?;
        rest.split_once(" bytes")?.0.replace(',', "").parse::<u64>().ok()
    });
    assert!(kept.unwrap() < 4096, "{summary}");
}

#[test]
fn the_static_library_makes_no_other_symbol_global_and_links() {
    let Some(prefix) = prefix() else { return };
    let archive = prefix.join("lib/libsandbox.a");
    let symbols = run(command("nm", &prefix)
        .args(["--extern-only", "--defined-only"])
        .arg(&archive));
    let names: Vec<&str> = symbols.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    assert!(names.len() > 50, "{symbols}");
    for name in &names {
        assert!(name.starts_with("sandbox_"), "{name} is global");
    }
    let folder = TempFolder::new();
    let program = folder.path().join("static");
    run(command("gcc", &prefix)
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&program)
        .arg(source("handles"))
        .args(flags(&prefix, &["--cflags"]))
        .arg(&archive)
        .args(
            flags(&prefix, &["--libs-only-l", "--static"])
                .iter()
                .filter(|flag| *flag != "-lsandbox"),
        ));
    let needed = run(command("readelf", &prefix).arg("--dynamic").arg(&program));
    assert!(!needed.contains("libsandbox"), "{needed}");
    run(std::process::Command::new(&program).arg(guests()));
}

#[test]
fn the_shared_library_is_small_and_exports_what_the_header_declares() {
    let Some(prefix) = prefix() else { return };
    let library = prefix.join("lib/libsandbox.so");
    assert!(library.metadata().unwrap().len() <= 4 << 20);
    let dynamic = run(command("readelf", &prefix).args(["--wide", "--dynamic"]).arg(&library));
    assert!(dynamic.contains("Library soname: [libsandbox.so.0]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
    let symbols = run(command("nm", &prefix)
        .args(["--dynamic", "--defined-only"])
        .arg(&library));
    let header = std::fs::read_to_string(repository().join("include/sandbox.h")).unwrap();
    for name in symbols.lines().filter_map(|line| line.split(' ').nth(2)) {
        let declared = match name.split_once("@@") {
            Some((name, version)) => version == "SANDBOX_0" && header.contains(&format!("{name}(")),
            None => name == "SANDBOX_0",
        };
        assert!(declared, "{name} is exported");
    }
}

#[test]
fn the_header_is_c99_and_cpp() {
    let header = repository().join("include/sandbox.h");
    let check = |program: &str, arguments: &[&str]| {
        run(std::process::Command::new(program)
            .args(arguments)
            .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"])
            .arg(&header));
    };
    check("gcc", &["-std=c99", "-x", "c"]);
    check("g++", &["-std=c++11", "-x", "c++"]);
}
