//! What users are shown: the quickstart in C, the lines in the README, and that nothing but the header is needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;

use support::{TempFolder, command, compile, guests, has_kvm, prefix, repository, run};

#[test]
fn the_quickstart_in_c_boots_snapshots_restores_and_forks_a_web_server() {
    let Some(prefix) = prefix() else { return };
    if !has_kvm() {
        return;
    }
    let folder = TempFolder::new();
    for name in ["quickstart.c", "Makefile"] {
        fs::copy(repository().join("examples/c").join(name), folder.path().join(name)).unwrap();
    }
    run(command("make", &prefix).arg("-C").arg(folder.path()));
    // SAFETY: geteuid touches no memory.
    if unsafe { libc::geteuid() } != 0 {
        return support::skip("needs root for network interfaces");
    }
    let output = run(std::process::Command::new(folder.path().join("quickstart")).arg(guests().join("http-reply")));
    let expected = "original: request 1\nrestored: request 2\nclone: request 2\noriginal: request 2\n";
    assert_eq!(output, expected);
}

#[test]
fn python_needs_nothing_but_the_header() {
    let Some(prefix) = prefix() else { return };
    if !has_kvm() {
        return;
    }
    let output = run(command("python3", &prefix)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/smoke.py"))
        .arg(prefix.join("include/sandbox.h"))
        .arg(prefix.join("lib/libsandbox.so.0"))
        .arg(guests()));
    assert_eq!(output, "all is well\n");
}

/// The first block of the README in this language.
fn readme(language: &str) -> String {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, rest) = readme.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_readme_shows_lines_of_the_quickstart_in_c() {
    let sample = readme("c");
    assert!((8..=14).contains(&sample.lines().count()), "{sample}");
    let source = fs::read_to_string(repository().join("examples/c/quickstart.c")).unwrap();
    let own: Vec<&str> = source
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(line))
        .collect();
    assert!(
        own.join("\n").contains(sample.trim_end()),
        "this is not in quickstart.c:\n{sample}"
    );
    // And it compiles under stricter warnings than the example's Makefile has.
    let Some(prefix) = prefix() else { return };
    let folder = TempFolder::new();
    compile(
        &prefix,
        &repository().join("examples/c/quickstart.c"),
        &folder.path().join("quickstart"),
        &[],
    );
}

#[test]
fn the_readme_shows_lines_of_the_go_packages_example() {
    let sample = readme("go");
    assert!((8..=14).contains(&sample.lines().count()), "{sample}");
    let source = fs::read_to_string(repository().join("bindings/go/example_test.go")).unwrap();
    let own: Vec<&str> = source
        .lines()
        .map(|line| line.strip_prefix('\t').unwrap_or(line))
        .collect();
    assert!(
        own.join("\n").contains(sample.trim_end()),
        "this is not in example_test.go:\n{sample}"
    );
}
