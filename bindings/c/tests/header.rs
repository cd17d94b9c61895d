//! The header that is checked in is the one that the source gives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::fs;
use std::path::{Path, PathBuf};

use cbindgen::{Builder, Config};

const UPDATE: &str = "SANDBOX_UPDATE_HEADER";

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files that declare something, in the order in which the library's root names them.
fn sources() -> Vec<PathBuf> {
    let root = fs::read_to_string(package().join("src/lib.rs")).unwrap();
    let modules = root
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    modules
        .map(|module| package().join(format!("src/{module}.rs")))
        .collect()
}

fn generated() -> String {
    let config = Config::from_file(package().join("cbindgen.toml")).unwrap();
    let mut builder = Builder::new().with_config(config);
    for source in sources() {
        builder = builder.with_src(source);
    }
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    without_rust_sections(&String::from_utf8(header).unwrap())
}

/// Rust's `# Safety` sections say in every place what the header says once.
fn without_rust_sections(header: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    let mut skipping = false;
    for line in header.lines() {
        if line == " * # Safety" {
            skipping = true;
            // The empty line before.
            lines.pop();
        } else if line == " */" {
            skipping = false;
        }
        if !skipping {
            lines.push(line);
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn the_header_is_what_the_source_gives() {
    let path = package().join("../../include/sandbox.h");
    let generated = generated();
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == generated,
        "include/sandbox.h is stale; run the test with {UPDATE}=1 and read the difference"
    );
}

#[test]
fn every_function_tells_its_thread_safety() {
    let header = generated();
    let mut functions = 0;
    for (comment, declaration) in header.split("/*").filter_map(|part| part.split_once("*/")) {
        let declaration = declaration.trim_start();
        if declaration.contains('(') && !declaration.starts_with('#') && !declaration.starts_with("typedef") {
            functions += 1;
            assert!(comment.contains("Thread-safety: "), "{declaration}");
        }
    }
    assert!(functions > 50, "only {functions} functions were found");
}
