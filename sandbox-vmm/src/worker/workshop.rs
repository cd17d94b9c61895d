//! Making a machine in a worker, by the same code as in the embedder's process.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sandbox_core::spec::SandboxSpec;
use sandbox_core::timeline::Recorder;
use sandbox_core::{ConsoleLog, Error, ErrorKind, Result, Uniqueness};

use super::confine::Confined;
use super::jail::rlimits;
use super::launch::{self, Descriptors, TakenMemory};
use super::protocol::{Answer, Filters, Launch, MemoryParts, Revive, Setting};
use super::server::News;
use crate::assemble::{self, Draft, MemorySource, OpenDevices, Parts, Revival};
use crate::backend::process_cpu_nanoseconds;
use crate::devices::virtio::block::Layer;
use crate::dialect;
use crate::memory::GuestMemory;
use crate::memory::fault_server::FaultRights;
use crate::memory::userfault::Userfault;
use crate::renewal::NewIdentity;
use crate::sandbox::confirmation::Confirmation;
use crate::sandbox::life::Life;
use crate::sandbox::ready::{Readiness, ReadySignal};
use crate::sandbox::shared::Shared;
use crate::sandbox::{KvmSandbox, Outlets};
use crate::snapshot::memory_file::{self, MemoryState};
use crate::snapshot::pager::{self, ListStore, Pager, Paging};
use crate::snapshot::saved::SavedMachine;
use crate::snapshot::section::{Identity, MAX_STATE_BYTES, NO_SNAPSHOT, StateFile};

/// What a worker makes its machine with.
pub struct Workshop {
    /// The host's KVM, and what else sandboxes share, of which there is one here.
    pub shared: Arc<Shared>,
    /// What its threads are confined by.
    pub filters: Option<Filters>,
    /// What was handed over.
    pub fds: Descriptors,
    /// Wakes who tells what happens to the guest.
    pub news: Arc<News>,
}

/// A sandbox that is made.
pub struct Built {
    /// The sandbox.
    pub sandbox: KvmSandbox,
    /// Its life.
    pub life: Arc<Life>,
    /// Processor time counts from the process's beginning.
    pub born: bool,
    /// What the guest of a clone is told.
    told: Option<Uniqueness>,
}

impl Built {
    /// The answer to who had it made.
    pub fn answer(&self) -> Answer {
        self.told.map_or(Answer::Done, Answer::Revived)
    }
}

impl Workshop {
    /// One that boots.
    pub fn launch(mut self, message: Launch) -> Result<Built> {
        let Launch {
            setting,
            kernel,
            initrd,
            on_demand,
        } = message;
        let spec = SandboxSpec::from_json(setting.spec.as_bytes())?;
        let outlets = self.outlets(&setting, &spec);
        let mut opened = launch::take_over(&spec, kernel, initrd, &setting.macs, &mut self.fds)?;
        let confined = Arc::new(Confined::new(self.filters.clone(), &setting.id));
        if on_demand {
            let confined = Arc::clone(&confined);
            opened.faults = FaultRights::Handed {
                device: self.fds.next()?.into(),
                confine: Box::new(move || confined.enter_alone()),
            };
        }
        limit_file_size(&spec, &opened.devices)?;
        let image = opened.kernel.image();
        let plan = dialect::select(&spec, image)?.plan(&spec, image)?;
        let Shared { host, library, .. } = &*self.shared;
        let draft = Draft::new(host, &spec, plan, &opened.kernel)?;
        let parts = assemble::assemble(host, library, &spec, &draft, opened, &outlets)?;
        self.finish(setting, parts, outlets, confined)
    }

    /// One that goes on where another one stood.
    pub fn revive(mut self, message: Revive) -> Result<Built> {
        let Revive {
            setting,
            memory,
            layers,
            snapshot,
            identity,
        } = message;
        let spec = SandboxSpec::from_json(setting.spec.as_bytes())?;
        let outlets = self.outlets(&setting, &spec);
        let bytes = launch::read_state(&File::from(self.fds.next()?))?;
        let state = StateFile::parse(&bytes)?;
        let mut saved = SavedMachine::read(&state)?;
        let stored = match &memory {
            MemoryParts::Files(_) | MemoryParts::Paged(_) => Some(state.get::<MemoryState>()?),
            MemoryParts::Image(..) => None,
        };
        let memory = TakenMemory::new(memory, spec.memory, stored, &mut self.fds)?;
        launch::take_layers(&mut saved, &layers, &mut self.fds)?;
        let devices = launch::take_devices(&spec, &setting.macs, &mut self.fds)?;
        limit_file_size(&spec, &devices)?;
        let confined = Arc::new(Confined::new(self.filters.clone(), &setting.id));
        let (fill, page);
        let source = match memory {
            TakenMemory::Image(ref image) => MemorySource::Image(image),
            TakenMemory::Files(files, digests) => {
                fill = move |memory: &GuestMemory| {
                    let digests: Vec<Option<&str>> = digests.iter().map(Option::as_deref).collect();
                    memory_file::read_all(&files, &digests, memory)
                };
                MemorySource::Filled(&fill)
            }
            TakenMemory::Paged { files, device, list } => {
                let list = HandedList {
                    file: list,
                    news: Arc::clone(&self.news),
                };
                let paging = Cell::new(Some(Paging {
                    identity: snapshot.map_or(NO_SNAPSHOT, Identity),
                    files,
                    list: Box::new(list),
                }));
                let confined = Arc::clone(&confined);
                page = move |memory: &GuestMemory| {
                    let userfault = Userfault::register(Some(&device), memory.mapping()).map_err(pager::refused)?;
                    let paging = paging.take().ok_or_else(launch::incomplete)?;
                    let confined = Arc::clone(&confined);
                    Pager::start(memory, userfault, paging, move || confined.enter_alone())
                };
                MemorySource::Paged(&page)
            }
        };
        let generation = identity.as_ref().map_or(0, NewIdentity::generation);
        let revival = Revival {
            saved: &saved,
            memory: &source,
            snapshot: snapshot.map(Identity),
            identity,
        };
        let Shared { host, library, .. } = &*self.shared;
        let (parts, told) = assemble::revive(host, library, revival, spec, devices, &outlets)?;
        if saved.ready {
            outlets.ready.give();
        }
        let mut built = self.finish(setting, parts, outlets, confined)?;
        built.sandbox = built.sandbox.with_identity(told, generation);
        built.told = Some(told);
        Ok(built)
    }

    fn outlets(&self, setting: &Setting, spec: &SandboxSpec) -> Outlets {
        let clock = setting.cpu_timeline.then_some(process_cpu_nanoseconds as _);
        let recorder = Arc::new(Recorder::start(clock));
        let (ready, confirmed) = (Arc::clone(&self.news), Arc::clone(&self.news));
        let console = ConsoleLog::new(assemble::console_capacity(spec));
        let outlets = Outlets {
            ready: ReadySignal::told(Arc::clone(&recorder), move || ready.tell()),
            confirmation: Arc::new(Confirmation::told(move || confirmed.tell())),
            ..Outlets::new(recorder, console)
        };
        self.news.listen_to(&outlets.console);
        outlets
    }

    fn finish(self, setting: Setting, parts: Parts, outlets: Outlets, confined: Arc<Confined>) -> Result<Built> {
        let Parts { assembly, counters } = parts;
        let life = Life::new(outlets, assembly, self.shared.kick_signal, confined);
        let name = self.shared.claim_name(Some(&setting.id))?;
        let sandbox = KvmSandbox::new(self.shared, name, Arc::clone(&life), Readiness::Started, counters);
        Ok(Built {
            sandbox,
            life,
            born: setting.cpu_from_birth,
            told: None,
        })
    }
}

/// A list of pages to read ahead in a file of the embedder's, who is told when it is left there.
struct HandedList {
    file: File,
    news: Arc<News>,
}

impl ListStore for HandedList {
    fn read(&self) -> Option<Vec<u8>> {
        launch::read_state(&self.file).ok()
    }

    fn leave(&self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, 0)?;
        self.news.list_is_left();
        Ok(())
    }
}

/// Forbids to write a file beyond what this sandbox has to: its disks, its memory in a snapshot or for a fork, its state.
fn limit_file_size(spec: &SandboxSpec, devices: &OpenDevices) -> Result<()> {
    let disks = devices.disks.iter().filter_map(|disk| disk.metadata().ok());
    // With what is told of a private one's content.
    let sizes = disks.map(|disk| Layer::file_size(disk.len()));
    let largest = sizes
        .chain([memory_file::file_size(spec.memory), MAX_STATE_BYTES])
        .max();
    rlimits::limit_file_size(largest.unwrap_or(MAX_STATE_BYTES))
        .map_err(|error| Error::new(ErrorKind::HostFailure, "cannot limit the size of files").with_source(error))
}
