//! Shared and static library from what cargo builds.
//!
//! Cargo's static library has Rust's whole standard library in it, with all symbols global, so that two such libraries
//! in one program clash. So all is linked into one object first, in which every symbol becomes local that the header
//! does not declare; both libraries are made of that object.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// What the library needs of the system.
pub(super) const SYSTEM_LIBRARIES: [&str; 5] = ["-lgcc_s", "-lpthread", "-lm", "-ldl", "-lc"];

/// The cargo profile that installed files are built with.
pub(super) const PROFILE: &str = "library";

/// Bitcode that Rust's standard library carries along, and that only slows linkers down.
const BITCODE: [&str; 2] = [".llvmbc", ".llvmcmd"];

/// The finished files.
pub(super) struct Library {
    pub(super) shared: PathBuf,
    pub(super) archive: PathBuf,
}

impl Library {
    /// Builds both libraries in `folder`.
    pub(super) fn build(workspace: &Workspace, folder: &Path, soname: &str) -> Result<Self> {
        process::run(
            workspace
                .cargo()
                .args(["build", "--profile", PROFILE, "--quiet", "--package", "sandbox-c"]),
        )?;
        let symbols = symbols(&fs::read_to_string(workspace.root().join("include/sandbox.h"))?)?;
        let built = workspace.target().join(PROFILE).join("libsandbox_c.a");
        let object = one_object(&built, &symbols, folder)?;
        Ok(Self {
            shared: shared(&object, folder, soname)?,
            archive: archive(&object, folder)?,
        })
    }
}

/// The functions that a header declares.
fn symbols(header: &str) -> Result<Vec<String>> {
    let declarations = header
        .lines()
        .filter(|line| !line.starts_with([' ', '#', '/', '*', '}']));
    let names = declarations.filter_map(|line| {
        let (before, _) = line.split_once('(')?;
        let start = before.rfind(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')? + 1;
        Some(before[start..].to_owned())
    });
    let names: Vec<String> = names.collect();
    if names.is_empty() || names.iter().any(|name| !name.starts_with("sandbox_")) {
        bail!("the header declares something else than sandbox_ functions: {names:?}");
    }
    Ok(names)
}

fn one_object(built: &Path, symbols: &[String], folder: &Path) -> Result<PathBuf> {
    let (all, object) = (folder.join("all.o"), folder.join("sandbox.o"));
    let wanted = symbols.iter().flat_map(|symbol| ["--undefined", symbol]);
    process::run(
        process::tool("ld")
            .args(["--relocatable", "--gc-sections"])
            .args(wanted)
            .arg("--whole-archive")
            .arg(built)
            .arg("-o")
            .arg(&all),
    )?;
    let kept = symbols.iter().map(|symbol| format!("--keep-global-symbol={symbol}"));
    let removed = BITCODE.iter().map(|section| format!("--remove-section={section}"));
    process::run(
        process::tool("objcopy")
            .arg("--strip-debug")
            .args(kept)
            .args(removed)
            .arg(&all)
            .arg(&object),
    )?;
    Ok(object)
}

/// The shared library. It is never unmapped: a signal handler and a fork handler of its own are in it.
fn shared(object: &Path, folder: &Path, soname: &str) -> Result<PathBuf> {
    let (_, number) = soname.rsplit_once('.').context("a soname without a number")?;
    let (script, shared) = (folder.join("version.map"), folder.join(soname));
    fs::write(
        &script,
        format!("SANDBOX_{number} {{\n  global: sandbox_*;\n  local: *;\n}};\n"),
    )?;
    process::run(
        process::tool("gcc")
            .args(["-shared", "-o"])
            .arg(&shared)
            .arg(object)
            .arg(format!("-Wl,--version-script={}", script.display()))
            .arg(format!("-Wl,-soname,{soname}"))
            .args([
                "-Wl,--gc-sections",
                "-Wl,--strip-all",
                "-Wl,--no-undefined",
                "-Wl,-z,nodelete",
            ])
            .args(["-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack"])
            // A tenth of the library would be relocations else. The C library takes these from version 2.36 on.
            .arg("-Wl,-z,pack-relative-relocs")
            .args(SYSTEM_LIBRARIES),
    )?;
    Ok(shared)
}

fn archive(object: &Path, folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("libsandbox.a");
    process::run(process::tool("ar").args(["rcsD"]).arg(&archive).arg(object))?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_in_a_header() {
        let header = "/* sandbox_not(this) */\n#define X(a) a\ntypedef uint64_t sandbox_t;\n\
                      uint32_t sandbox_abi_version(void);\nconst char *sandbox_version(void);\n\
                      int32_t sandbox_long(int32_t a,\n                     int32_t b);\n";
        let expected = ["sandbox_abi_version", "sandbox_version", "sandbox_long"];
        assert_eq!(symbols(header).unwrap(), expected);
        assert!(symbols("int main(void);\n").is_err());
        assert!(symbols("").is_err());
    }

    #[test]
    fn the_header_that_is_checked_in_declares_the_interface() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../include/sandbox.h");
        let names = symbols(&fs::read_to_string(path).unwrap()).unwrap();
        assert!(names.iter().any(|name| name == "sandbox_create"));
        assert!(names.len() > 50, "{names:?}");
    }
}
