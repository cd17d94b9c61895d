//! Writing a container's snapshot: a folder with what its runtime saves, the spec, and the manifest, which comes last.
//!
//! ```text
//! manifest.json   what the folder is, and the digests of its files
//! spec.json       the sandbox's description
//! image/          the runtime's own files
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sandbox_core::snapshot::{
    AfterSnapshot, FileRecord, Given, MANIFEST_FORMAT, Manifest, SnapshotOptions, Uniqueness,
};
use sandbox_core::{Capability, Error, ErrorKind, Result, SandboxSpec, State, Verb};

use super::ending::Cause;
use super::life::Life;
use crate::error::host;
use crate::files::{self, IMAGE, MANIFEST, SPEC};
use crate::runtime::Command;

/// What a container that goes on from a snapshot can rely on: the host's clock and random numbers are its own as they
/// are every process's; what it has made of them before is repeated.
pub const UNIQUENESS: Uniqueness = Uniqueness {
    entropy: Given::NotGiven,
    ids: Given::NotGiven,
    clock: Given::Applied,
    address: Given::NotGiven,
};

/// Takes a snapshot.
pub fn take(
    life: &Arc<Life>,
    spec: &SandboxSpec,
    can_go_on: bool,
    directory: &Path,
    options: &SnapshotOptions,
) -> Result<Manifest> {
    refuse(spec, can_go_on, options)?;
    let _verb = life.verbs();
    life.lifecycle().check(Verb::Snapshot)?;
    if life.state() == State::Paused {
        let context = "runtimes save containers that run; resume it first";
        return Err(Error::new(ErrorKind::Unsupported, context));
    }
    if directory.exists() {
        let context = format!("{} is there already", directory.display());
        return Err(Error::new(ErrorKind::AlreadyExists, context).with_field("directory"));
    }
    let folder = Partial::begin(directory)?;
    let stops = options.after == AfterSnapshot::Stop;
    if stops {
        life.will_end(Cause::Saved);
    }
    let written = write(life, spec, &folder, options);
    if written.is_err() {
        life.goes_on();
    }
    let manifest = written?;
    if stops && life.wait(Some(life.parts.host.options.call_limit)).is_err() {
        life.end(Cause::Killed);
        life.wait(None)?;
    }
    folder.finish(directory)?;
    Ok(manifest)
}

/// What no runtime can do, or not this one.
fn refuse(spec: &SandboxSpec, can_go_on: bool, options: &SnapshotOptions) -> Result<()> {
    if options.base.is_some() {
        let context = "containers are saved whole; leave out the base";
        return Err(Error::unsupported("base", context));
    }
    if options.after == AfterSnapshot::Resume && !can_go_on {
        let context = format!(
            "this runtime ends a container that it saves ({} is absent); ask for stop, and restore it",
            Capability::SnapshotResume.name()
        );
        return Err(Error::unsupported("after", context));
    }
    if let Some((field, context)) = super::unsaved(spec) {
        return Err(Error::unsupported(field, context));
    }
    Ok(())
}

fn write(life: &Life, spec: &SandboxSpec, folder: &Partial, options: &SnapshotOptions) -> Result<Manifest> {
    let image = folder.0.join(IMAGE);
    files::private_folder(&image).map_err(host("cannot make the snapshot's folder"))?;
    fs::write(folder.0.join(SPEC), spec.to_json()).map_err(host("cannot write the snapshot"))?;
    let work = life.parts.folder.join("checkpoint");
    fs::create_dir_all(&work).map_err(host("cannot make a folder for the runtime's log"))?;
    let checkpoint = Command::Checkpoint {
        image: &image,
        work: &work,
        leave_running: options.after == AfterSnapshot::Resume,
    };
    let saved = life.parts.command(checkpoint, "save");
    let saved = saved.map_err(|error| with_last_words(error, &work.join("dump.log")));
    let _ = fs::remove_dir_all(&work);
    saved?;
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        sdk_version: env!("CARGO_PKG_VERSION").to_owned(),
        backend: life.parts.runtime.kind.name().to_owned(),
        identity: files::identity().map_err(host("no random numbers"))?,
        bases: Vec::new(),
        architecture: std::env::consts::ARCH.to_owned(),
        cpu: BTreeMap::from([("runtime".to_owned(), life.parts.runtime.version.clone())]),
        host_kernel: files::kernel_release(),
        guest: life.parts.runtime.program.display().to_string(),
        memory: 0,
        files: records(&folder.0)?,
        uniqueness: UNIQUENESS,
        checksum: String::new(),
    };
    fs::write(folder.0.join(MANIFEST), manifest.to_json()).map_err(host("cannot write the manifest"))?;
    files::sync(&folder.0).map_err(host("cannot write the snapshot"))?;
    // With the checksum that was written.
    Manifest::from_json(manifest.to_json().as_bytes())
}

/// Names what the program that the runtime calls complained of last, before it said that all has failed.
pub fn with_last_words(error: Error, log: &Path) -> Error {
    let text = fs::read_to_string(log).unwrap_or_default();
    match last_complaint(&text) {
        Some(line) => error.with_source(line.to_owned()),
        None => error,
    }
}

/// CRIU goes on after some errors: those of programs that it starts to see what the host can do.
fn last_complaint(log: &str) -> Option<&str> {
    let is_told = |line: &&str| line.contains("Error (") && !line.ends_with(" FAILED.");
    log.lines().rev().find(is_told).map(str::trim)
}

/// A runtime's files have no room for an identity, so each has its digest.
fn records(folder: &Path) -> Result<BTreeMap<String, FileRecord>> {
    let unreadable = || host("cannot read the snapshot again");
    let mut records = BTreeMap::new();
    for name in files::all_below(folder).map_err(unreadable())? {
        let path = folder.join(&name);
        let record = FileRecord {
            size: path.metadata().map_err(unreadable())?.len(),
            identity: String::new(),
            digest: Some(files::digest(&path).map_err(unreadable())?),
        };
        records.insert(name, record);
    }
    Ok(records)
}

/// A snapshot's folder while it is being written, removed unless it is finished.
struct Partial(PathBuf);

impl Partial {
    fn begin(directory: &Path) -> Result<Self> {
        let mut name = directory.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let path = directory.with_file_name(name);
        files::private_folder(&path).map_err(host(format!("cannot make the folder {}", path.display())))?;
        Ok(Self(path))
    }

    fn finish(&self, directory: &Path) -> Result<()> {
        fs::rename(&self.0, directory).map_err(host(format!("cannot name the snapshot {}", directory.display())))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // A finished one has another name.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_stands_before_the_failure() {
        let log = "(00.1) Error (criu/util.c:642): exited, status=1\n(00.2) Dumping\n\
                   (01.6) Error (criu/filesystems.c:426): Can't dump tmpfs content\n(01.7) Unlock network\n\
                   (02.1) Error (criu/cr-dump.c:2053): Dumping FAILED.\n";
        let reason = "(01.6) Error (criu/filesystems.c:426): Can't dump tmpfs content";
        assert_eq!(last_complaint(log), Some(reason));
        assert_eq!(last_complaint("(00.1) all is well\n"), None);
    }
}
