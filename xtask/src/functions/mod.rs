//! The papers' functions, built for every wall: below `target/functions`.
//!
//! | file | content |
//! |---|---|
//! | `go/`, `node/`, `c/` | root file systems, for containers |
//! | `go.ext4`, `node.ext4`, `c.ext4` | the same as disks, for Linux guests |
//! | `functions.json` | all functions for all walls, as the function platform reads them |
//!
//! Each root file system has `/sbin/init`, which runs the program that `/etc/function` names.

mod catalogue;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::assets::{self, Assets};
use crate::cache::{self, Key};
use crate::elf;
use crate::ext4;
use crate::packages::{self, Package};
use crate::process;
use crate::workspace::Workspace;

const PACKAGES: [Package; 2] = [
    Package {
        name: "golang-go",
        why: "compiles the functions in Go",
    },
    Package {
        name: "nodejs",
        why: "runs the function in Node.js",
    },
];

/// What `cargo xtask help` says about it.
pub(crate) const USAGE: &str = "\
functions                        build the papers' functions and print where they are";

/// The variable by which tests find the folder.
pub(crate) const VARIABLE: &str = "SANDBOX_TEST_FUNCTIONS";
/// Where the sources are, from the workspace's root.
const SOURCES: &str = "examples/faas-harness/functions";
/// Room in a disk beyond its files, for the file system's own structures, in MiB.
const DISK_SLACK_MIB: u64 = 16;

/// A language, and so a root file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Go,
    Node,
    C,
}

impl Language {
    pub(crate) const ALL: [Self; 3] = [Self::Go, Self::Node, Self::C];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Node => "node",
            Self::C => "c",
        }
    }

    /// The program and its arguments, inside.
    pub(crate) fn command(self) -> &'static [&'static str] {
        match self {
            Self::Go | Self::C => &["/function"],
            Self::Node => &["/usr/bin/node", "/server.js"],
        }
    }
}

/// Builds all functions and prints their folder.
pub(crate) fn main(workspace: &Workspace, mut arguments: lexopt::Parser) -> Result<ExitCode> {
    if let Some(argument) = arguments.next()? {
        return Err(argument.unexpected().into());
    }
    println!("{}", build(workspace)?.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds whatever is missing or out of date, and gives the folder.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    packages::ensure(&PACKAGES)?;
    let assets = Assets::build(workspace)?;
    let _lock = cache::lock(&workspace.target().join("xtask"))?;
    let folder = workspace.target().join("functions");
    let sources = workspace.root().join(SOURCES);
    for language in Language::ALL {
        let root = folder.join(language.name());
        let key = key(&sources, language)?;
        cache::build(&root, &key, |path| populate(path, &sources, language))?;
        cache::build(&root.with_extension("ext4"), &key, |path| {
            ext4::make(path, &root, size_mib(&root)? + DISK_SLACK_MIB, &[])
        })?;
    }
    fs::write(
        folder.join("functions.json"),
        catalogue::functions(&folder, assets.folder())?,
    )?;
    Ok(folder)
}

/// Everything that a root file system is made from.
fn key(sources: &Path, language: Language) -> Result<Key> {
    let mut key = Key::default().file(&sources.join("c/init.c"))?;
    for entry in fs::read_dir(sources.join(language.name()))? {
        key = key.file(&entry?.path())?;
    }
    match language {
        Language::Node => key.file(&node()?),
        Language::Go | Language::C => Ok(key),
    }
}

fn populate(root: &Path, sources: &Path, language: Language) -> Result<()> {
    for folder in ["dev", "etc", "proc", "sbin", "sys", "tmp", "usr/bin"] {
        fs::create_dir_all(root.join(folder))?;
    }
    program(
        &root.join("sbin/init"),
        &assets::c_program("init", &fs::read(sources.join("c/init.c"))?)?,
    )?;
    fs::write(root.join("etc/function"), language.command().join("\n"))?;
    match language {
        Language::Go => go(root, &sources.join("go")),
        Language::Node => node_js(root, &sources.join("node/server.js")),
        Language::C => {
            let source = fs::read(sources.join("c/noop.c"))?;
            program(&root.join("function"), &assets::c_program("noop", &source)?)
        }
    }
}

/// The Go program, linked statically, and the files that it reads.
fn go(root: &Path, sources: &Path) -> Result<()> {
    let function = root.join("function");
    process::run(
        process::tool("go")
            .current_dir(sources)
            .env("CGO_ENABLED", "0")
            // Nothing of the user's, and nothing from the network.
            .env("GOFLAGS", "-mod=mod -trimpath -buildvcs=false")
            .env("GOPROXY", "off")
            .args(["build", "-ldflags", "-s -w", "-o"])
            .arg(&function)
            .arg("."),
    )?;
    process::run(
        process::tool(&function.to_string_lossy())
            .arg("prepare")
            .arg(root.join("data")),
    )
}

/// Node.js with its libraries, at the paths that they have here.
fn node_js(root: &Path, server: &Path) -> Result<()> {
    let node = node()?;
    fs::copy(server, root.join("server.js"))?;
    fs::copy(&node, root.join("usr/bin/node"))?;
    for library in elf::shared_libraries(&node)? {
        let place = root.join(library.strip_prefix("/").unwrap_or(&library));
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(&library, &place).with_context(|| format!("cannot copy {}", library.display()))?;
    }
    Ok(())
}

fn node() -> Result<PathBuf> {
    process::find_program("node".as_ref()).context("the package nodejs has no program node")
}

fn program(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// What the files of a folder take, in MiB, rounded up.
fn size_mib(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => folders.push(entry.path()),
                false => bytes += entry.metadata()?.len(),
            }
        }
    }
    Ok(bytes.div_ceil(1 << 20))
}
