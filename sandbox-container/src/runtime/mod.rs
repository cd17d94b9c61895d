//! OCI runtimes: finding them, knowing them, and the words of their commands.

mod command;
pub mod events;
mod log;
mod version;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sandbox_core::{Error, ErrorKind, Result};

pub use command::{Command, Flags};
pub use log::complaint;
pub use version::{ROOT_NETWORK_SIGN, identify, mistakes_namespaces};

/// A runtime that this crate knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// runc, the reference implementation.
    Runc,
    /// crun.
    Crun,
    /// gVisor's runsc, whose containers have a kernel of their own in user space.
    Runsc,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Runc, Kind::Crun, Kind::Runsc];

    /// Its program's usual name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Runc => "runc",
            Kind::Crun => "crun",
            Kind::Runsc => "runsc",
        }
    }
}

/// A runtime that is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciRuntime {
    /// What it is.
    pub kind: Kind,
    /// Its program.
    pub program: PathBuf,
    /// Its version, as it says.
    pub version: String,
}

/// The program that `name`, a name on `PATH` or a path, stands for.
///
/// # Errors
/// There is none, or it may not be executed.
pub fn find(name: &str) -> Result<PathBuf> {
    let found = match name.contains('/') {
        true => Some(PathBuf::from(name)),
        false => on_path(name),
    };
    let Some(path) = found else {
        let context = format!("there is no {name} on PATH; install it, or give the path of its program");
        return Err(Error::new(ErrorKind::NotFound, context).with_field(FIELD));
    };
    match path.metadata() {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => std::path::absolute(&path)
            .map_err(|error| Error::new(ErrorKind::HostFailure, "there is no working directory").with_source(error)),
        Ok(_) => {
            let context = format!("{} is no program: it cannot be executed", path.display());
            Err(Error::new(ErrorKind::PermissionDenied, context).with_field(FIELD))
        }
        Err(error) => {
            let context = format!("there is no program {}", path.display());
            Err(Error::new(crate::error::kind_of(&error), context)
                .with_field(FIELD)
                .with_source(error))
        }
    }
}

/// The field of the spec that names a runtime.
pub const FIELD: &str = "guest.container.runtime";

/// The first executable file of that name in the folders of `PATH`.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let is_program = |path: &Path| {
        path.metadata()
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

impl OciRuntime {
    /// Whether it has a command that says what a container uses.
    pub fn has_events(&self) -> bool {
        self.kind != Kind::Crun
    }

    /// Whether the SDK makes the cgroup, and starts the runtime in it.
    pub fn makes_no_cgroup(&self) -> bool {
        self.kind == Kind::Runsc
    }
}
