//! What a sandbox in a worker does of snapshots and forks, whose files are its embedder's.

use std::fs::File;
use std::sync::Arc;

use sandbox_core::{Error, ErrorKind, Result, Verb};

use super::KvmSandbox;
use super::snapshot::store;
use crate::devices::virtio::DeviceState;
use crate::devices::virtio::block::with_files;
use crate::memory::GuestMemory;
use crate::memory::image::{MemoryImage, PartRecord};
use crate::snapshot::memory_file::MemoryState;
use crate::snapshot::section::{Identity, NO_SNAPSHOT};

impl KvmSandbox {
    /// Writes the guest's memory as it stands still to the file of snapshot `identity`, and returns its state, in which the
    /// pages that count are the only layer.
    ///
    /// # Errors
    /// The wrong state, a `base` that is not the last snapshot, or a disk that does not take it.
    pub fn store(&self, identity: Identity, base: Option<Identity>, file: &File) -> Result<Vec<u8>> {
        self.life.capture(Verb::Snapshot, &self.shared.host, false, |captured| {
            let own = store(&captured, identity, base, file)?;
            let mut state = captured.saved.write(identity).map_err(Error::from)?;
            let memory = MemoryState {
                size: captured.memory().size(),
                layers: vec![own],
            };
            state.add(&memory).map_err(Error::from)?;
            Ok(state.finish())
        })
    }

    /// The snapshot that [`KvmSandbox::store`] wrote the memory of is safe on the disk.
    ///
    /// # Errors
    /// The machine is given back already.
    pub fn keep(&self, identity: Identity) -> Result<()> {
        let kept = self.life.with_machine(|machine| machine.vm.dirty().begin(identity));
        kept.ok_or_else(|| self.wrong_state("note a snapshot of"))
    }

    /// Freezes the guest's memory, what is new of it in `file`, and copies what it wrote to its private disks to `layers`, one
    /// each. Returns the state, and the parts of the files that its image had before, with `file` behind them.
    ///
    /// # Errors
    /// The wrong state, or a host without memory for it.
    pub fn freeze(&self, file: File, layers: Vec<File>) -> Result<(Vec<u8>, Vec<PartRecord>)> {
        with_files(layers, || self.freeze_in(file))
    }

    fn freeze_in(&self, file: File) -> Result<(Vec<u8>, Vec<PartRecord>)> {
        self.life.capture(Verb::Fork, &self.shared.host, false, |captured| {
            for device in &captured.saved.devices.virtio {
                if let DeviceState::Block(disk) = &device.device {
                    disk.written.leave().map_err(|error| {
                        let context = "the host has no memory for a copy of a private disk";
                        Error::new(ErrorKind::HostExhausted, context).with_source(error)
                    })?;
                }
            }
            let memory = captured.memory();
            let before = files_of(memory);
            let image = MemoryImage::freeze_in(memory, |_| Ok(file))?;
            let records = numbered(&image, &before);
            let records = records.ok_or_else(|| {
                let context = "the guest's memory is in more files than can be told";
                Error::new(ErrorKind::HostFailure, context)
            })?;
            let state = captured.saved.write(NO_SNAPSHOT).map_err(Error::from)?;
            Ok((state.finish(), records))
        })
    }
}

fn files_of(memory: &GuestMemory) -> Vec<Arc<File>> {
    memory.image().map_or_else(Vec::new, |image| image.records().0)
}

/// The parts of `image`, by the numbers that its files have in `before`; one that is not there comes behind them.
fn numbered(image: &MemoryImage, before: &[Arc<File>]) -> Option<Vec<PartRecord>> {
    let (files, records) = image.records();
    let number_of = |file: &Arc<File>| {
        let known = before.iter().position(|other| Arc::ptr_eq(file, other));
        u8::try_from(known.unwrap_or(before.len())).ok()
    };
    let renumber = |record: PartRecord| {
        Some(PartRecord {
            file: number_of(files.get(usize::from(record.file))?)?,
            ..record
        })
    };
    records.into_iter().map(renumber).collect()
}
