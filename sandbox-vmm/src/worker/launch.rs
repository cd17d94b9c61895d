//! Handing a sandbox over: from what the embedder opened to messages and descriptors, and back.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sandbox_core::spec::SandboxSpec;
use sandbox_core::{Error, ErrorKind, Result};
use sandbox_net::{MacAddress, Tap};

use super::protocol::channel::Channel;
use super::protocol::{Launch, MemoryParts, Request, Revive, Setting};
use crate::assemble::{OpenDevices, OpenNetwork, Opened};
use crate::boot::store::{InitrdParts, KernelParts, StoredInitrd, StoredKernel};
use crate::devices::virtio::DeviceState;
use crate::devices::virtio::block::Written;
use crate::devices::virtio::vsock::{Connector, HostSockets};
use crate::memory::fault_server::FaultRights;
use crate::memory::image::{MemoryImage, PartRecord};
use crate::renewal::NewIdentity;
use crate::snapshot::folder::Folder;
use crate::snapshot::memory_file::{MemoryFile, MemoryState};
use crate::snapshot::saved::SavedMachine;
use crate::snapshot::section::{Identity, MAX_STATE_BYTES};

/// What a worker makes a machine of, beside its devices.
pub enum Cargo<'a> {
    /// One that boots.
    Boot {
        /// Its kernel.
        kernel: Arc<StoredKernel>,
        /// Its initial RAM disk.
        initrd: Option<Arc<StoredInitrd>>,
        /// Makes descriptors for page faults, by which the kernel comes on demand.
        faults: Option<File>,
    },
    /// One that goes on where another one stood.
    Clone {
        /// All but its memory, as in a state file.
        state: &'a File,
        /// Its memory.
        memory: &'a CloneMemory<'a>,
        /// What was written to the private disks of the original, in the order of its spec, and the disks' sizes.
        layers: &'a [(File, u64)],
        /// The snapshot that the memory is of.
        snapshot: Option<Identity>,
        /// What it is told of its own.
        identity: Option<NewIdentity>,
    },
}

/// A clone's memory, as it is handed over.
pub enum CloneMemory<'a> {
    /// An image, which it shares until it writes.
    Image {
        /// The image's files.
        files: Vec<Arc<File>>,
        /// Its parts.
        records: Vec<PartRecord>,
    },
    /// The files of a snapshot, all of which it reads.
    Files {
        /// The oldest first.
        files: Vec<MemoryFile>,
        /// What they are verified by.
        digests: Vec<Option<&'a str>>,
    },
    /// The files of a snapshot, of which it reads what it needs.
    Paged {
        /// The oldest first.
        files: Vec<MemoryFile>,
        /// Makes descriptors for page faults.
        device: File,
        /// The list of pages to read ahead, or where to leave one.
        list: File,
    },
}

impl<'a> CloneMemory<'a> {
    /// An image.
    pub fn image(image: &MemoryImage) -> Self {
        let (files, records) = image.records();
        Self::Image { files, records }
    }

    /// The files of `folder`, each with its digest where that is to be verified.
    pub fn files(folder: &Folder, digests: Vec<Option<&'a str>>) -> Result<Self> {
        let files = folder.memory_files()?;
        Ok(Self::Files { files, digests })
    }

    fn parts(&self) -> MemoryParts {
        match self {
            // There are no more files than parts, of which there are few.
            Self::Image { files, records } => MemoryParts::Image(files.len() as u8, records.clone()),
            Self::Files { digests, .. } => {
                let digests = digests.iter().map(|digest| digest.map(str::to_owned));
                MemoryParts::Files(digests.collect())
            }
            // At most `MAX_LAYERS`.
            Self::Paged { files, .. } => MemoryParts::Paged(files.len() as u8),
        }
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Image { files, .. } => files.iter().map(|file| file.as_fd()).collect(),
            Self::Files { files, .. } => files.iter().map(|file| file.file().as_fd()).collect(),
            Self::Paged { files, device, list } => {
                let files = files.iter().map(|file| file.file().as_fd());
                files.chain([device.as_fd(), list.as_fd()]).collect()
            }
        }
    }
}

/// What every sandbox has, to be handed over with these devices.
pub fn setting(id: &str, spec: &SandboxSpec, devices: &OpenDevices) -> Setting {
    Setting {
        id: id.to_owned(),
        spec: spec.to_json(),
        cpu_timeline: false,
        cpu_from_birth: false,
        macs: devices.networks.iter().map(|network| network.mac.octets()).collect(),
    }
}

/// The request for a sandbox, and the descriptors that go with it. `broker` is the worker's end, for a sandbox with a
/// socket device.
pub fn hand_over<'a>(
    setting: Setting,
    cargo: &'a Cargo<'a>,
    devices: &'a OpenDevices,
    broker: Option<&'a Channel>,
) -> (Request, Vec<BorrowedFd<'a>>) {
    let mut fds = Vec::new();
    let request = match cargo {
        Cargo::Boot { kernel, initrd, faults } => {
            let (kernel, file) = KernelParts::of(kernel);
            fds.extend(file);
            let initrd = initrd.as_deref().map(|initrd| {
                let (parts, file) = InitrdParts::of(initrd);
                fds.extend(file);
                parts
            });
            Request::Launch(Box::new(Launch {
                setting,
                kernel,
                initrd,
                on_demand: faults.is_some(),
            }))
        }
        Cargo::Clone {
            state,
            memory,
            layers,
            snapshot,
            identity,
        } => {
            fds.push(state.as_fd());
            fds.extend(memory.fds());
            fds.extend(layers.iter().map(|(file, _)| file.as_fd()));
            Request::Revive(Box::new(Revive {
                setting,
                memory: memory.parts(),
                layers: layers.iter().map(|(_, bytes)| *bytes).collect(),
                snapshot: snapshot.map(|snapshot| snapshot.0),
                identity: identity.clone(),
            }))
        }
    };
    fds.extend(devices.disks.iter().map(AsFd::as_fd));
    fds.extend(devices.networks.iter().map(|network| network.tap.as_fd()));
    if let (Some(sockets), Some(broker)) = (&devices.vsock, broker) {
        fds.push(sockets.listener.as_fd());
        fds.push(broker.as_fd());
    }
    if let Cargo::Boot { faults, .. } = cargo {
        fds.extend(faults.as_ref().map(AsFd::as_fd));
    }
    (request, fds)
}

/// The descriptors that came with a request, from the first on.
pub struct Descriptors(std::vec::IntoIter<OwnedFd>);

impl Descriptors {
    /// All of them.
    pub fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds.into_iter())
    }

    /// The next one.
    ///
    /// # Errors
    /// There is none.
    pub fn next(&mut self) -> Result<OwnedFd> {
        self.0.next().ok_or_else(incomplete)
    }

    /// All that are left.
    pub fn rest(self) -> Vec<File> {
        self.0.map(File::from).collect()
    }

    /// The next ones.
    ///
    /// # Errors
    /// There are not as many.
    pub fn files(&mut self, count: usize) -> Result<Vec<File>> {
        (0..count).map(|_| self.next().map(File::from)).collect()
    }
}

/// What a machine that boots is made of, but for the right to serve page faults.
pub fn take_over(
    spec: &SandboxSpec,
    kernel: KernelParts,
    initrd: Option<InitrdParts>,
    macs: &[[u8; 6]],
    fds: &mut Descriptors,
) -> Result<Opened> {
    let kernel_file = kernel.has_file().then(|| fds.next()).transpose()?;
    let kernel = kernel.into_kernel(kernel_file).ok_or_else(incomplete)?;
    let initrd = match initrd {
        Some(parts) => {
            let file = parts.has_file().then(|| fds.next()).transpose()?;
            Some(Arc::new(parts.into_initrd(file).ok_or_else(incomplete)?))
        }
        None => None,
    };
    Ok(Opened {
        kernel: Arc::new(kernel),
        initrd,
        faults: FaultRights::None,
        devices: take_devices(spec, macs, fds)?,
    })
}

/// What the devices of `spec` are made of.
pub fn take_devices(spec: &SandboxSpec, macs: &[[u8; 6]], fds: &mut Descriptors) -> Result<OpenDevices> {
    let disks = fds.files(spec.disks.len())?;
    let mut networks = Vec::with_capacity(macs.len());
    for octets in macs {
        let tap = Tap::from_fd(fds.next()?).map_err(|error| {
            let context = "the tap that was handed over cannot be used";
            Error::new(ErrorKind::HostFailure, context).with_source(error)
        })?;
        let mac = MacAddress::new(*octets);
        networks.push(OpenNetwork { tap, mac });
    }
    let vsock = match &spec.vsock {
        Some(_) => Some(HostSockets {
            listener: fds.next()?.into(),
            connector: Box::new(Asker(Channel::from_fd(fds.next()?))),
        }),
        None => None,
    };
    Ok(OpenDevices { disks, networks, vsock })
}

/// A clone's memory in the worker.
pub enum TakenMemory {
    /// An image.
    Image(Arc<MemoryImage>),
    /// Files to be read, and their digests.
    Files(Vec<MemoryFile>, Vec<Option<String>>),
    /// Files of which pages are read when they are asked for.
    Paged {
        /// The oldest first.
        files: Vec<MemoryFile>,
        /// Makes descriptors for page faults.
        device: File,
        /// The list of pages to read ahead, or where to leave one.
        list: File,
    },
}

impl TakenMemory {
    /// Of the parts of a message, of what stands in the state, and the next descriptors.
    ///
    /// # Errors
    /// What does not fit together.
    pub fn new(parts: MemoryParts, size: u64, state: Option<MemoryState>, fds: &mut Descriptors) -> Result<Self> {
        match parts {
            MemoryParts::Image(count, records) => {
                let files = fds.files(usize::from(count))?;
                let files: Vec<Arc<File>> = files.into_iter().map(Arc::new).collect();
                let image = MemoryImage::from_records(size, &files, &records).ok_or_else(incomplete)?;
                Ok(Self::Image(Arc::new(image)))
            }
            MemoryParts::Files(digests) => {
                let files = memory_files(state, digests.len(), fds)?;
                Ok(Self::Files(files, digests))
            }
            MemoryParts::Paged(count) => Ok(Self::Paged {
                files: memory_files(state, usize::from(count), fds)?,
                device: fds.next()?.into(),
                list: fds.next()?.into(),
            }),
        }
    }
}

/// The memory files of a snapshot, which the embedder opened and checked.
fn memory_files(state: Option<MemoryState>, count: usize, fds: &mut Descriptors) -> Result<Vec<MemoryFile>> {
    let state = state.ok_or_else(incomplete)?;
    let files = fds.files(count)?;
    let names: Vec<String> = (0..count).map(|index| state.file_name(index)).collect();
    let layers = state.layers.into_iter().zip(names).zip(files);
    Ok(layers
        .map(|((layer, name), file)| MemoryFile::checked(file, name, layer))
        .collect())
}

/// Puts what was written to the original's private disks, of these sizes, into its state.
///
/// # Errors
/// What does not fit together.
pub fn take_layers(saved: &mut SavedMachine, sizes: &[u64], fds: &mut Descriptors) -> Result<()> {
    let disks = saved.origin.spec.disks.iter().zip(&mut saved.devices.virtio);
    let private = disks.filter(|(disk, _)| disk.private);
    for ((_, device), bytes) in private.zip(sizes) {
        let file = File::from(fds.next()?);
        let DeviceState::Block(state) = &mut device.device else {
            return Err(incomplete());
        };
        state.written = Written::left_in(file, *bytes).map_err(|error| incomplete().with_source(error))?;
    }
    Ok(())
}

/// The state that somebody left in a file, however much that is. Several may read it at a time, by one descriptor.
pub fn read_state(file: &File) -> Result<Vec<u8>> {
    let size = file.metadata().map(|metadata| metadata.len().min(MAX_STATE_BYTES));
    let read = size.and_then(|size| {
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, 0).map(|()| bytes)
    });
    read.map_err(|error| Error::new(ErrorKind::HostFailure, "the guest's state cannot be read").with_source(error))
}

/// The error for a request that does not hold together.
pub fn incomplete() -> Error {
    Error::new(
        ErrorKind::HostFailure,
        "what the embedder handed over is not complete, or does not fit together",
    )
}

/// Has the embedder connect the guest to the host.
struct Asker(Channel);

impl Connector for Asker {
    fn connect(&mut self, port: u32) -> std::io::Result<std::os::unix::net::UnixStream> {
        use super::protocol::channel::ChannelError;
        let lost = |error: ChannelError| std::io::Error::other(error);
        self.0.send(&port, &[], LONGEST_ANSWER).map_err(lost)?;
        let (connected, fds): (bool, Vec<OwnedFd>) = self.0.receive_within(LONGEST_ANSWER).map_err(lost)?;
        match (connected, fds.into_iter().next()) {
            (true, Some(fd)) => Ok(fd.into()),
            _ => Err(std::io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

/// The guest's vCPU waits meanwhile. The embedder answers without waiting for anybody.
const LONGEST_ANSWER: std::time::Duration = std::time::Duration::from_secs(2);
