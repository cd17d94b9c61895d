//! `cargo xtask install`: puts the C library where C compilers, pkg-config and the dynamic linker look for it.

mod library;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use crate::packages::{self, Package};
use crate::process;
use crate::scratch::Scratch;
use crate::workspace::Workspace;

use library::Library;

/// What `cargo xtask help` says about it.
pub(crate) const USAGE: &str = "\
install [OPTIONS]                build libsandbox and install it with header and pkg-config file
    --prefix DIR        where it will be used (default /usr/local)
    --destdir DIR       put before the prefix when files are written, for packagers";

/// The environment variable by which tests find the prefix.
pub(crate) const VARIABLE: &str = "SANDBOX_TEST_PREFIX";

const PACKAGES: [Package; 2] = [
    Package {
        name: "gcc",
        why: "links the shared library",
    },
    Package {
        name: "binutils",
        why: "makes all symbols local that are not the interface's",
    },
];

/// Version of the shared library: its first number is that of the symbols' version and of the soname.
const SONAME: &str = "libsandbox.so.0";

/// The program of worker processes, which the library looks for beside itself.
const WORKER: &str = "sandbox-worker";

struct Options {
    prefix: PathBuf,
    destination: PathBuf,
}

/// Builds and installs.
pub(crate) fn main(workspace: &Workspace, arguments: lexopt::Parser) -> Result<ExitCode> {
    let options = parse(arguments)?;
    install(workspace, &options)?;
    println!("installed below {}", options.root().display());
    Ok(ExitCode::SUCCESS)
}

/// Installs below the target directory, for tests; the folder is a prefix like any other.
pub(crate) fn for_tests(workspace: &Workspace) -> Result<PathBuf> {
    let prefix = workspace.target().join("xtask/prefix");
    let options = Options {
        prefix: prefix.clone(),
        destination: PathBuf::new(),
    };
    install(workspace, &options)?;
    Ok(prefix)
}

fn parse(mut arguments: lexopt::Parser) -> Result<Options> {
    let mut prefix = PathBuf::from("/usr/local");
    let mut destination = PathBuf::new();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("prefix") => prefix = arguments.value()?.into(),
            Long("destdir") => destination = arguments.value()?.into(),
            other => return Err(other.unexpected().into()),
        }
    }
    if !prefix.is_absolute() {
        bail!("--prefix {} is no absolute path", prefix.display());
    }
    Ok(Options { prefix, destination })
}

impl Options {
    /// Where the prefix's files are written.
    fn root(&self) -> PathBuf {
        if self.destination.as_os_str().is_empty() {
            return self.prefix.clone();
        }
        let below: PathBuf = self.prefix.components().skip(1).collect();
        self.destination.join(below)
    }
}

fn install(workspace: &Workspace, options: &Options) -> Result<()> {
    packages::ensure(&PACKAGES)?;
    let scratch = Scratch::below(&workspace.target().join("xtask"), "install")?;
    let library = Library::build(workspace, scratch.path(), SONAME)?;
    let root = options.root();
    let version = version(workspace)?;
    let folder = root.join("lib");
    let file = format!("libsandbox.so.{version}");
    put(&library.shared, &folder.join(&file))?;
    put(&library.archive, &folder.join("libsandbox.a"))?;
    let worker = folder.join(WORKER);
    put(&worker_program(workspace, scratch.path())?, &worker)?;
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755))?;
    link(&file, &folder.join(SONAME))?;
    link(SONAME, &folder.join("libsandbox.so"))?;
    put(
        &workspace.root().join("include/sandbox.h"),
        &root.join("include/sandbox.h"),
    )?;
    let schema = workspace.root().join("sandbox-core/schema/sandbox-spec.json");
    put(&schema, &root.join("share/sandbox/sandbox-spec.json"))?;
    let description = description(&options.prefix, &version)?;
    write(&root.join("lib/pkgconfig/sandbox.pc"), description.as_bytes())
}

/// Builds the worker's program, without symbols: it is started often.
fn worker_program(workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    process::run(workspace.cargo().args([
        "build",
        "--profile",
        library::PROFILE,
        "--quiet",
        "--package",
        "sandbox",
        "--bin",
        WORKER,
    ]))?;
    let stripped = folder.join(WORKER);
    process::run(
        process::tool("strip")
            .arg("-o")
            .arg(&stripped)
            .arg(workspace.target().join(library::PROFILE).join(WORKER)),
    )?;
    Ok(stripped)
}

fn version(workspace: &Workspace) -> Result<String> {
    let metadata = workspace.metadata()?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    let package = packages.iter().find(|package| package["name"] == "sandbox-c");
    let version = package.and_then(|package| package["version"].as_str());
    Ok(version.context("there is no package sandbox-c")?.to_owned())
}

/// The pkg-config file; what a static link needs besides is what Rust's standard library does.
fn description(prefix: &Path, version: &str) -> Result<String> {
    let prefix = prefix.to_str().context("pkg-config knows no path that is not UTF-8")?;
    Ok(format!(
        "prefix={prefix}\n\
         includedir=${{prefix}}/include\n\
         libdir=${{prefix}}/lib\n\
         \n\
         Name: sandbox\n\
         Description: One interface before KVM micro-VMs and OCI runtimes\n\
         Version: {version}\n\
         Cflags: -I${{includedir}}\n\
         Libs: -L${{libdir}} -lsandbox\n\
         Libs.private: {}\n",
        library::SYSTEM_LIBRARIES.join(" ")
    ))
}

/// Copies a file so that a process that uses the old one keeps it.
fn put(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    write(to, &content)
}

fn write(to: &Path, content: &[u8]) -> Result<()> {
    let written = new_name(to)?;
    fs::write(&written, content).with_context(|| format!("cannot write {}", written.display()))?;
    fs::rename(&written, to).with_context(|| format!("cannot write {}", to.display()))
}

fn link(target: &str, at: &Path) -> Result<()> {
    let made = new_name(at)?;
    symlink(target, &made).with_context(|| format!("cannot make {}", made.display()))?;
    fs::rename(&made, at).with_context(|| format!("cannot make {}", at.display()))
}

/// A name beside `file`, free to be written to and renamed.
fn new_name(file: &Path) -> Result<PathBuf> {
    let folder = file.parent().context("a file without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut name = OsString::from(".new-");
    name.push(file.file_name().context("a file without a name")?);
    let path = folder.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_comes_before_the_prefix() {
        let options = |arguments: &[&str]| parse(lexopt::Parser::from_args(arguments));
        assert_eq!(options(&[]).unwrap().root(), Path::new("/usr/local"));
        let packager = options(&["--prefix", "/usr", "--destdir", "/tmp/package"]).unwrap();
        assert_eq!(packager.root(), Path::new("/tmp/package/usr"));
        assert!(options(&["--prefix", "here"]).is_err());
    }

    #[test]
    fn files_are_replaced_and_links_too() {
        let scratch = Scratch::new("install").unwrap();
        let file = scratch.path().join("lib/file");
        for content in [b"one", b"two"] {
            write(&file, content).unwrap();
            link("file", &scratch.path().join("lib/name")).unwrap();
            assert_eq!(fs::read(scratch.path().join("lib/name")).unwrap(), content);
        }
    }
}
