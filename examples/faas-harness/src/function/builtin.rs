//! Functions that come with the harness: the project's own guests.

use std::io;
use std::path::{Path, PathBuf};

use sandbox::SandboxSpec;
use sandbox::spec::{GuestSpec, ReadyCheck, UnikernelFamily, UnikernelGuest};

use super::FunctionSpec;

/// Memory of the web server without an operating system, in bytes; it touches a fraction of it.
const HELLO_MEMORY: u64 = 8 << 20;

/// The files of the functions that come with the harness.
#[derive(Clone, Debug)]
pub struct Builtins {
    directory: PathBuf,
}

impl Builtins {
    /// Writes the files into `directory`.
    ///
    /// # Errors
    /// The folder cannot be made, or a file not written.
    pub fn install(directory: &Path) -> io::Result<Self> {
        sandbox_guests::write_to(directory)?;
        Ok(Self::at(directory))
    }

    /// The files that [`Builtins::install`] wrote into `directory`.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// The names of the functions.
    pub fn names() -> &'static [&'static str] {
        &["hello"]
    }

    /// The function of this name, to be deployed as `function`.
    pub fn function(&self, builtin: &str, function: &str) -> Option<FunctionSpec> {
        match builtin {
            "hello" => Some(FunctionSpec::new(function, self.hello())),
            _ => None,
        }
    }

    /// A web server that runs on the bare virtual machine.
    fn hello(&self) -> SandboxSpec {
        let mut spec = SandboxSpec::new(GuestSpec::Unikernel(UnikernelGuest {
            image: self.directory.join("http-reply"),
            family: UnikernelFamily::Bare,
            ..UnikernelGuest::default()
        }));
        spec.memory = HELLO_MEMORY;
        spec.ready = Some(ReadyCheck::BootPort);
        spec
    }
}
