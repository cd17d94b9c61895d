//! What instances are cloned from: a first one that was booted once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbox::SnapshotOptions;
use sandbox::snapshot::AfterSnapshot;

use super::{Instance, LaunchError};

/// The template of one function, made when the first instance is started.
#[derive(Default)]
pub struct TemplateCell {
    state: Mutex<CellState>,
}

#[derive(Default)]
enum CellState {
    #[default]
    Empty,
    Made(Arc<Template>),
    Closed,
}

/// What a clone is made from.
pub(super) enum Template {
    /// A running instance that is held still, for forks.
    Parent(Option<Instance>),
    /// A folder, for restores.
    Snapshot(PathBuf),
}

impl TemplateCell {
    /// The template, made by `make` if there is none yet. Whoever comes meanwhile waits for it.
    pub(super) fn get(
        &self,
        make: impl FnOnce() -> Result<Template, LaunchError>,
    ) -> Result<Arc<Template>, LaunchError> {
        let mut state = self.lock();
        match &*state {
            CellState::Made(template) => Ok(Arc::clone(template)),
            CellState::Closed => Err(LaunchError::internal(&"the function is being removed")),
            CellState::Empty => {
                let template = Arc::new(make()?);
                *state = CellState::Made(Arc::clone(&template));
                Ok(template)
            }
        }
    }

    /// Gives the template up, for good. Blocks until the kernel has let go, unless a clone is just being made of it.
    pub fn close(&self) {
        let old = std::mem::replace(&mut *self.lock(), CellState::Closed);
        drop(old);
    }

    fn lock(&self) -> MutexGuard<'_, CellState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Template {
    /// Holds `instance` still.
    pub(super) fn parent(instance: Instance) -> Result<Self, LaunchError> {
        match instance.sandbox().pause() {
            Ok(()) => Ok(Self::Parent(Some(instance))),
            Err(error) => {
                instance.give_back();
                Err(LaunchError::internal(&error.report()))
            }
        }
    }

    /// Writes `instance` into the new folder `folder` and ends it.
    pub(super) fn snapshot(instance: Instance, folder: &Path) -> Result<Self, LaunchError> {
        let options = SnapshotOptions {
            after: AfterSnapshot::Stop,
            ..SnapshotOptions::default()
        };
        let prepared = prepare(folder).map_err(|error| LaunchError::internal(&error));
        let written = prepared.and_then(|()| {
            let written = instance.sandbox().snapshot(folder, &options);
            written.map_err(|error| LaunchError::internal(&error.report()))
        });
        instance.give_back();
        written.map(|_| Self::Snapshot(folder.to_owned()))
    }
}

/// Makes room for a snapshot: what an earlier run of the platform left there is of no use to this one.
fn prepare(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    folder.parent().map_or(Ok(()), fs::create_dir_all)
}

impl Drop for Template {
    fn drop(&mut self) {
        match self {
            Self::Parent(parent) => {
                if let Some(parent) = parent.take() {
                    parent.give_back();
                }
            }
            Self::Snapshot(folder) => {
                if let Err(error) = fs::remove_dir_all(&folder) {
                    eprintln!("faas-harness: {} is left behind: {error}", folder.display());
                }
            }
        }
    }
}
