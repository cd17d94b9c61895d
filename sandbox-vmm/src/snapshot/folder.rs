//! Reading a snapshot folder.

use std::path::{Path, PathBuf};

use sandbox_core::snapshot::Verify;
use sandbox_core::{Error, ErrorKind, Manifest, Result};

use super::files::read_bounded;
use super::memory_file::{MemoryFile, MemoryState};
use super::saved::SavedMachine;
use super::section::{Identity, MAX_STATE_BYTES, StateFile};
use super::writing::STATE_FILE;

/// Instruction set of the guests.
pub const ARCHITECTURE: &str = "x86_64";
/// The backend that reads and writes these folders.
pub const BACKEND: &str = "kvm";

/// A folder whose manifest and state are checked.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The manifest.
    pub manifest: Manifest,
    /// The snapshot's identity.
    pub identity: Identity,
    /// The machine.
    pub saved: SavedMachine,
    /// Which pages the memory files hold.
    pub memory: MemoryState,
}

impl Folder {
    /// Reads manifest and state and checks that they are as they were written and belong together.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Corrupt`] or [`ErrorKind::Incompatible`].
    pub fn open(path: &Path) -> Result<Self> {
        let manifest = Manifest::read(path)?;
        check_kind(&manifest)?;
        let state = read_bounded(&path.join(STATE_FILE), STATE_FILE, MAX_STATE_BYTES)?;
        let (identity, saved, memory) = parse_state(&state)?;
        let record = manifest.files.get(STATE_FILE);
        let belongs = record.is_some_and(|record| record.size == state.len() as u64)
            && manifest.identity == identity.to_string()
            && record.is_some_and(|record| record.identity == manifest.identity)
            && manifest.memory == memory.size
            && memory.layers.last().is_some_and(|layer| layer.identity == identity.0);
        if !belongs {
            return Err(corrupt("manifest and state are not of the same snapshot"));
        }
        Ok(Self {
            path: path.to_path_buf(),
            manifest,
            identity,
            saved,
            memory,
        })
    }

    /// Opens the memory files, the oldest first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] and [`ErrorKind::Corrupt`].
    pub fn memory_files(&self) -> Result<Vec<MemoryFile>> {
        let layers = self.memory.layers.iter().enumerate();
        let open = |(index, layer): (usize, &super::memory_file::Layer)| {
            let name = self.memory.file_name(index);
            let Some(record) = self.manifest.files.get(&name) else {
                return Err(corrupt(format!("the manifest has no {name}")));
            };
            MemoryFile::open(&self.path.join(&name), name, self.memory.size, layer.clone(), record)
        };
        layers.map(open).collect()
    }

    /// Where the memory files are, the oldest first.
    pub fn memory_paths(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.memory.layers.len()).map(|index| self.path.join(self.memory.file_name(index)))
    }

    /// Where a file of the folder is.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The digests of the memory files, in their order, if they are to be verified.
    ///
    /// # Errors
    /// A snapshot without digests, where they are asked for.
    pub fn digests(&self, verify: Verify) -> Result<Vec<Option<&str>>> {
        (0..self.memory.layers.len())
            .map(|index| {
                let record = self.manifest.files.get(&self.memory.file_name(index));
                match (verify, record.and_then(|record| record.digest.as_deref())) {
                    (Verify::Size, _) => Ok(None),
                    (Verify::Full, Some(digest)) => Ok(Some(digest)),
                    (Verify::Full, None) => {
                        let context = "the snapshot has no digest of its memory; take it with one, or verify the size";
                        Err(Error::invalid("verify", context))
                    }
                }
            })
            .collect()
    }
}

/// Reads a state file's content; for folders, and for whoever tries what hostile ones do.
///
/// # Errors
/// [`ErrorKind::Corrupt`] or [`ErrorKind::Incompatible`].
pub fn parse_state(bytes: &[u8]) -> Result<(Identity, SavedMachine, MemoryState)> {
    let state = StateFile::parse(bytes)?;
    let saved = SavedMachine::read(&state)?;
    let memory: MemoryState = state.get()?;
    memory.check()?;
    match memory.size == saved.origin.spec.memory {
        true => Ok((state.identity(), saved, memory)),
        false => Err(corrupt("the state's parts contradict each other")),
    }
}

fn check_kind(manifest: &Manifest) -> Result<()> {
    let incompatible = |context: String| Err(Error::new(ErrorKind::Incompatible, context));
    if manifest.backend != BACKEND {
        return incompatible(format!(
            "the snapshot is one of the {} backend, not of {BACKEND}",
            manifest.backend
        ));
    }
    if manifest.architecture != ARCHITECTURE {
        return incompatible(format!(
            "the snapshot is of an {} guest, and this host runs {ARCHITECTURE}",
            manifest.architecture
        ));
    }
    Ok(())
}

fn corrupt(context: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Corrupt, context)
}
