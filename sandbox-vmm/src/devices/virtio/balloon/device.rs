//! The balloon as the transport and the event loop see it.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::BALLOON_PAGE_SIZE;
use super::handle::{BalloonHandle, Shared};
use super::persist::BalloonState;
use super::queues::Queues;
use crate::devices::virtio::persist::Impossible;
use crate::devices::virtio::{
    ActivateError, Activation, DeviceKind, DeviceState, HostEvent, Interrupt, Progress, RestoreError, SavedDevice,
    VirtioDevice, config_space,
};

/// `VIRTIO_BALLOON_F_STATS_VQ` (§5.5.3).
const FEATURE_STATISTICS: u64 = 1 << 1;
/// `VIRTIO_BALLOON_F_DEFLATE_ON_OOM`.
const FEATURE_DEFLATE_ON_OOM: u64 = 1 << 2;
/// `VIRTIO_BALLOON_F_PAGE_REPORTING`.
const FEATURE_REPORTING: u64 = 1 << 5;

/// Entries of each queue; Linux wants 32 at least for its reports.
const QUEUE_SIZE: u16 = 128;
/// inflateq, deflateq, statsq, free_page_vq (which is never used), reporting_vq (§5.5.2).
const QUEUE_COUNT: usize = 5;

const CONFIG_SPACE_SIZE: usize = 8;
/// Offset in the configuration space of `actual`, the driver's to write; `num_pages` comes before it (§5.5.4).
const ACTUAL_OFFSET: usize = 4;

/// Token: the handle asks for something.
const WAKE: u32 = 0;

/// A balloon.
#[derive(Clone, Copy, Debug, Default)]
pub struct BalloonConfig {
    /// Pages of [`BALLOON_PAGE_SIZE`] that it should hold at the start.
    pub target: u32,
    /// The guest may take pages back before it runs out of memory.
    pub deflate_on_oom: bool,
    /// The guest reports pages that it does not use, and they leave the host's memory until it does.
    pub free_page_reporting: bool,
    /// The guest reports statistics.
    pub statistics: bool,
}

impl BalloonConfig {
    fn features(&self) -> u64 {
        let optional = [
            (FEATURE_STATISTICS, self.statistics),
            (FEATURE_DEFLATE_ON_OOM, self.deflate_on_oom),
            (FEATURE_REPORTING, self.free_page_reporting),
        ];
        let offered = optional.into_iter().filter(|(_, offered)| *offered);
        let rings = 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;
        offered.fold(rings, |features, (feature, _)| features | feature)
    }
}

/// A virtio-balloon device.
pub struct Balloon {
    config: BalloonConfig,
    shared: Arc<Shared>,
    /// `num_pages` as the driver is told, and what it wrote to `actual`.
    space: [u8; CONFIG_SPACE_SIZE],
    active: Option<(Queues, Interrupt)>,
    /// The statistics buffer that the saved balloon held, for the queues to come.
    held_statistics: Option<u16>,
}

impl Balloon {
    /// A balloon of a guest with `memory_size` bytes of RAM.
    ///
    /// # Errors
    /// The host has no descriptor left for an eventfd.
    pub fn new(config: BalloonConfig, memory_size: u64) -> io::Result<Self> {
        let wake = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let guest_pages = memory_size / BALLOON_PAGE_SIZE;
        let mut space = [0; CONFIG_SPACE_SIZE];
        space[..ACTUAL_OFFSET].copy_from_slice(&config.target.to_le_bytes());
        Ok(Self {
            shared: Arc::new(Shared::new(wake, guest_pages, config.statistics, config.target)),
            config,
            space,
            active: None,
            held_statistics: None,
        })
    }

    /// The machine's hold on this balloon.
    pub fn handle(&self) -> BalloonHandle {
        BalloonHandle::new(Arc::clone(&self.shared))
    }

    /// Tells the driver of a new target.
    fn apply_target(&mut self) {
        let target = self.shared.target.load(Ordering::Acquire).to_le_bytes();
        if self.space[..ACTUAL_OFFSET] == target {
            return;
        }
        self.space[..ACTUAL_OFFSET].copy_from_slice(&target);
        if let Some((_, interrupt)) = &self.active {
            interrupt.signal_config_change();
        }
    }

    fn set_actual(&mut self, bytes: [u8; 4]) {
        self.space[ACTUAL_OFFSET..].copy_from_slice(&bytes);
        self.shared.actual.store(u32::from_le_bytes(bytes), Ordering::Release);
    }
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUE_COUNT]
    }

    fn features(&self) -> u64 {
        self.config.features()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_space::read(&self.space, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // Byte by byte, so that a driver may write the field in pieces; the rest of the space is not its to write.
        let mut actual = self.shared.actual.load(Ordering::Acquire).to_le_bytes();
        for (index, byte) in (0u64..).zip(data) {
            let position = offset.saturating_add(index).checked_sub(ACTUAL_OFFSET as u64);
            let position = position.and_then(|position| usize::try_from(position).ok());
            if let Some(to) = position.and_then(|position| actual.get_mut(position)) {
                *to = *byte;
            }
        }
        self.set_actual(actual);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let interrupt = activation.interrupt.clone();
        let negotiated = |feature| activation.features & feature != 0;
        let (statistics, reporting) = (negotiated(FEATURE_STATISTICS), negotiated(FEATURE_REPORTING));
        let mut queues = Queues::new(activation, statistics, reporting)?;
        queues.hold_statistics(self.held_statistics.take());
        self.active = Some((queues, interrupt));
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
        // The driver took its pages back, or is gone with all that it had.
        self.set_actual([0; 4]);
    }

    fn queue_notify(&mut self, queue: u16) -> Progress {
        match &mut self.active {
            Some((queues, _)) => queues.work_off(usize::from(queue), &self.shared),
            None => Progress::Waiting,
        }
    }

    fn save(&mut self) -> SavedDevice {
        let queues = self.active.as_ref().map(|(queues, _)| queues);
        SavedDevice {
            positions: queues.map(Queues::positions).unwrap_or_default(),
            state: DeviceState::Balloon(BalloonState {
                target: self.shared.target.load(Ordering::Acquire),
                actual: self.shared.actual.load(Ordering::Acquire),
                held_statistics: queues.and_then(Queues::held_statistics),
            }),
        }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        if let DeviceState::Balloon(state) = state {
            self.handle()
                .set_target(state.target)
                .map_err(|_| RestoreError::Impossible(Impossible::BalloonTarget))?;
            self.apply_target();
            self.set_actual(state.actual.to_le_bytes());
            self.held_statistics = state.held_statistics;
        }
        Ok(())
    }

    fn host_events(&self) -> Vec<HostEvent> {
        vec![HostEvent {
            fd: self.shared.wake.as_raw_fd(),
            token: WAKE,
        }]
    }

    fn host_event(&mut self, _token: u32) -> Progress {
        // Emptied first, so that what comes up from here on is announced again. It may be empty already.
        let _ = self.shared.wake.read();
        self.apply_target();
        if let Some((queues, _)) = &mut self.active
            && self.shared.statistics_wanted.swap(false, Ordering::AcqRel)
        {
            queues.ask_for_statistics();
        }
        Progress::Waiting
    }
}
