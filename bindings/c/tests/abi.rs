//! The binary interface is the one that is checked in, unless its version was raised.
//!
//! `abi.txt` lists what a compiled program depends on: the version, each function with its parameters, each structure
//! with the place and size of its fields, each constant's value.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use support::{TempFolder, repository, run};

const UPDATE: &str = "SANDBOX_UPDATE_ABI";

struct Header(String);

impl Header {
    fn read() -> Self {
        let text = fs::read_to_string(repository().join("include/sandbox.h")).unwrap();
        // Without comments, which are not part of the interface.
        let mut code = String::new();
        for part in text.split("*/") {
            code += part.split_once("/*").map_or(part, |(code, _)| code);
        }
        Self(code)
    }

    /// `type name(parameters)`, one on a line.
    fn functions(&self) -> Vec<String> {
        let mut all = Vec::new();
        for statement in self.0.split(';') {
            let words: Vec<&str> = statement.split_whitespace().collect();
            let start = words
                .iter()
                .position(|word| word.starts_with("sandbox_") && word.contains('('));
            let start = start.or_else(|| {
                words
                    .iter()
                    .position(|word| word.contains("sandbox_") && word.contains('('))
            });
            if let Some(start) = start {
                // The return type is what stands before, behind preprocessor lines and such.
                let type_start = if start >= 2 && words[start - 2] == "const" {
                    start - 2
                } else {
                    start - 1
                };
                all.push(words[type_start..].join(" "));
            }
        }
        all
    }

    /// Each structure's name and its fields' names.
    fn structures(&self) -> Vec<(String, Vec<String>)> {
        let mut all = Vec::new();
        for part in self.0.split("typedef struct ").skip(1) {
            let (name, rest) = part.split_once('{').unwrap();
            let (fields, _) = rest.split_once('}').unwrap();
            let names = fields.split(';').filter_map(|field| field.split_whitespace().last());
            all.push((name.trim().to_owned(), names.map(String::from).collect()));
        }
        all
    }

    fn constants(&self) -> Vec<&str> {
        let lines = self.0.lines().filter_map(|line| line.strip_prefix("#define SANDBOX_"));
        lines.filter(|line| line.contains(' ')).collect()
    }
}

/// Sizes and places of all fields, as the compiler has them.
fn layouts(header: &Header) -> String {
    let mut program = String::from("#include <stdio.h>\n#include <sandbox.h>\nint main(void)\n{\n");
    for (structure, fields) in header.structures() {
        writeln!(
            program,
            "printf(\"struct {structure}: %zu bytes\\n\", sizeof({structure}));"
        )
        .unwrap();
        for field in fields {
            writeln!(
                program,
                "printf(\"  {field}: at %zu, %zu bytes\\n\", offsetof({structure}, {field}), sizeof((({structure} \
                 *)0)->{field}));"
            )
            .unwrap();
        }
    }
    program += "return 0;\n}\n";
    let folder = TempFolder::new();
    let (source, binary) = (folder.path().join("layouts.c"), folder.path().join("layouts"));
    fs::write(&source, program).unwrap();
    run(std::process::Command::new("gcc")
        .arg("-I")
        .arg(repository().join("include"))
        .arg("-o")
        .arg(&binary)
        .arg(&source));
    run(&mut std::process::Command::new(&binary))
}

fn interface() -> String {
    let header = Header::read();
    let mut text = format!("version {}\n\n", sandbox_c::version::SANDBOX_ABI_VERSION);
    for function in header.functions() {
        text += &format!("{function}\n");
    }
    text += "\n";
    text += &layouts(&header);
    text += "\n";
    for constant in header.constants() {
        text += &format!("SANDBOX_{constant}\n");
    }
    text
}

#[test]
fn the_interface_changes_only_with_its_version() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("abi.txt");
    let (now, before) = (interface(), fs::read_to_string(&path).unwrap_or_default());
    if now == before {
        return;
    }
    let version = |text: &str| text.lines().next().map(String::from);
    assert!(
        version(&now) != version(&before),
        "the binary interface has changed; raise SANDBOX_ABI_VERSION and run this test with {UPDATE}=1. It is now:\n{now}"
    );
    assert!(
        std::env::var_os(UPDATE).is_some(),
        "bindings/c/abi.txt is that of another version; run this test with {UPDATE}=1"
    );
    fs::write(&path, now).unwrap();
}

#[test]
fn every_function_structure_and_constant_is_seen() {
    let header = Header::read();
    let functions = header.functions();
    assert_eq!(
        functions.len(),
        header.0.matches("sandbox_error_t *error)").count() + functions_without_error(&functions)
    );
    assert!(
        functions
            .iter()
            .any(|function| function == "const char *sandbox_version(void)"),
        "{functions:?}"
    );
    assert!(
        functions
            .iter()
            .any(|function| function == "int32_t sandbox_free(sandbox_t sandbox)"),
        "{functions:?}"
    );
    assert!(
        header
            .structures()
            .iter()
            .any(|(name, fields)| name == "sandbox_exit" && fields == &["kind", "value"])
    );
    assert!(header.constants().contains(&"ERROR_TIMEOUT 11"));
}

fn functions_without_error(functions: &[String]) -> usize {
    functions
        .iter()
        .filter(|function| !function.contains("sandbox_error_t *error)"))
        .count()
}
