//! Finding the worker's program.

use std::env;
use std::ffi::{CStr, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sandbox_core::{Error, ErrorKind, Result};

/// Name of the installed program.
pub const PROGRAM_NAME: &str = "sandbox-worker";
/// The variable that names the program.
const VARIABLE: &str = "SANDBOX_WORKER";

/// This program calls `run_if_worker`, so that it can be its own worker.
static IS_OWN_WORKER: AtomicBool = AtomicBool::new(false);

/// Remembers that this program can be its own worker.
pub fn declare_own_worker() {
    IS_OWN_WORKER.store(true, Ordering::Relaxed);
}

/// Opens the worker's program: the one at `explicit`, or else the first of those that `SANDBOX_WORKER` names, this very
/// program if it calls `run_if_worker`, and `sandbox-worker` beside this library, beside this program, and in `PATH`.
///
/// # Errors
/// [`ErrorKind::NotFound`], with all places that were looked at. A place that was named must be right: none other is
/// tried then.
pub fn open(explicit: Option<&Path>) -> Result<File> {
    if let Some(path) = explicit {
        return open_named(path, "the options name");
    }
    if let Some(path) = env::var_os(VARIABLE) {
        return open_named(Path::new(&path), "SANDBOX_WORKER names");
    }
    if IS_OWN_WORKER.load(Ordering::Relaxed) {
        return open_named(Path::new("/proc/self/exe"), "this program calls run_if_worker and is");
    }
    let places = places();
    match places.iter().find_map(|place| open_program(place).ok()) {
        Some(program) => Ok(program),
        None => {
            let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
            let context = format!(
                "there is no worker program: this program does not call sandbox::worker::run_if_worker() at the top of \
                 its main, SANDBOX_WORKER is not set, and there is no {}; do one of these, or say in_process for guests \
                 that you trust",
                looked.join(", no ")
            );
            Err(Error::new(ErrorKind::NotFound, context).with_field("isolation"))
        }
    }
}

fn open_named(path: &Path, who: &str) -> Result<File> {
    open_program(path).map_err(|error| {
        let context = format!("{who} {}, which cannot be run as the worker", path.display());
        Error::new(crate::error::kind_of(&error), context)
            .with_field("isolation")
            .with_source(error)
    })
}

/// Opens a program to be executed by its descriptor: what was found is what runs, whatever becomes of its path.
fn open_program(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)?;
    let metadata = file.metadata()?;
    match metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        true => Ok(file),
        false => Err(io::Error::from_raw_os_error(libc::EACCES)),
    }
}

fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    let mut add = |folder: &Path| {
        let place = folder.join(PROGRAM_NAME);
        if !places.contains(&place) {
            places.push(place);
        }
    };
    let program = env::current_exe().ok();
    for file in [object_file(), program].into_iter().flatten() {
        if let Some(folder) = file.parent() {
            add(folder);
            // Where cargo puts test programs, one level below all others.
            if folder.file_name() == Some(OsStr::new("deps"))
                && let Some(above) = folder.parent()
            {
                add(above);
            }
        }
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .for_each(|folder| add(&folder));
    places
}

/// The worker's program beside the file that this code was loaded from, if there is one: for embedders that are no Rust
/// programs.
pub fn beside_library() -> Option<PathBuf> {
    let program = object_file()?.with_file_name(PROGRAM_NAME);
    program.is_file().then_some(program)
}

/// The file that this code was loaded from: the program, or a shared library.
fn object_file() -> Option<PathBuf> {
    // SAFETY: the structure is plain data that dladdr fills when it succeeds.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the address is one of this code's own, and the structure outlives the call.
    let found = unsafe { libc::dladdr(object_file as *const libc::c_void, &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr gave a NUL-terminated name that lives as long as the object is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    std::fs::canonicalize(OsStr::from_bytes(name.to_bytes())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_named_and_is_not_there_is_an_error_of_its_own() {
        let error = open(Some(Path::new("/nonexistent/worker"))).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::NotFound, Some("isolation")));
        assert!(error.report().contains("/nonexistent/worker"), "{}", error.report());
        let error = open(Some(Path::new("/etc/passwd"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn the_places_are_beside_this_program_and_in_the_path() {
        let places = places();
        let own = env::current_exe().unwrap().with_file_name(PROGRAM_NAME);
        assert!(places.contains(&own), "{places:?}");
        assert!(places.iter().all(|place| place.is_absolute()), "{places:?}");
    }
}
