//! What the driver has written into the registers: the status state machine (virtio 1.3 §3.1.1), the features and the
//! queues' addresses. Plain data with a fixed size: whatever a guest writes and however often, nothing grows.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use crate::devices::virtio::RestoreError;
use crate::devices::virtio::persist::Impossible;

/// The steps of the initialisation in their order; each needs the one before it.
const STEPS: [u32; 4] = [
    VIRTIO_CONFIG_S_ACKNOWLEDGE,
    VIRTIO_CONFIG_S_DRIVER,
    VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_DRIVER_OK,
];

/// What a driver accepts by using the registers of version 2 (§4.2.2).
const IMPLIED_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1;

/// One of the three parts of a queue, by the specification's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueuePart {
    /// The descriptor table (`QueueDesc`).
    Descriptors,
    /// The available ring (`QueueDriver`).
    Driver,
    /// The used ring (`QueueDevice`).
    Device,
}

/// Which half of a 64-bit value a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// Bits 0-31.
    Low,
    /// Bits 32-63.
    High,
}

impl Half {
    /// This half of `value`.
    pub(super) fn of(self, value: u64) -> u32 {
        match self {
            Half::Low => value as u32,
            Half::High => (value >> 32) as u32,
        }
    }

    /// Replaces this half of `whole`.
    fn set(self, whole: &mut u64, value: u32) {
        let shift = match self {
            Half::Low => 0,
            Half::High => 32,
        };
        *whole = (*whole & !(u64::from(u32::MAX) << shift)) | u64::from(value) << shift;
    }

    /// The half that a feature window shows; there is nothing behind the second (§4.2.2, `DeviceFeaturesSel`).
    pub(super) fn selected_by(select: u32) -> Option<Self> {
        match select {
            0 => Some(Half::Low),
            1 => Some(Half::High),
            _ => None,
        }
    }
}

/// What the driver chose for one queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRegisters {
    /// The largest size that the device takes, in descriptors.
    pub max_size: u16,
    /// `QueueNum`: the size, as the driver wrote it.
    pub size: u32,
    /// `QueueReady`.
    pub ready: bool,
    /// `QueueDesc`: guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// `QueueDriver`: guest-physical address of the available ring.
    pub driver: u64,
    /// `QueueDevice`: guest-physical address of the used ring.
    pub device: u64,
}

impl QueueRegisters {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: u32::from(max_size),
            ready: false,
            descriptors: 0,
            driver: 0,
            device: 0,
        }
    }

    /// The queue as its device uses it, not checked against the guest's memory. A queue that is not ready is given its
    /// largest size and no addresses.
    pub(super) fn queue(&self, event_idx: bool) -> Result<Queue, virtio_queue::Error> {
        let mut queue = Queue::new(self.max_size)?;
        if self.ready {
            let size = u16::try_from(self.size).map_err(|_| virtio_queue::Error::InvalidSize)?;
            queue.try_set_size(size)?;
            queue.try_set_desc_table_address(GuestAddress(self.descriptors))?;
            queue.try_set_avail_ring_address(GuestAddress(self.driver))?;
            queue.try_set_used_ring_address(GuestAddress(self.device))?;
            queue.set_event_idx(event_idx);
            queue.set_ready(true);
        }
        Ok(queue)
    }
}

/// Everything that the driver set up through the registers, and the transport's whole state beside the pending
/// interrupt; the device keeps the positions in the queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// The features offered, with those of the transport.
    pub offered: u64,
    /// The status bits that the driver set.
    pub status: u32,
    /// `DeviceFeaturesSel`.
    pub device_features_select: u32,
    /// `DriverFeaturesSel`.
    pub driver_features_select: u32,
    /// The features that the driver accepted, whether offered or not.
    pub driver_features: u64,
    /// `QueueSel`.
    pub queue_select: u32,
    /// One per queue of the device.
    pub queues: Vec<QueueRegisters>,
}

impl Registers {
    /// The state after a reset of a device that offers these features, and whose queues have these largest sizes.
    pub(super) fn new(offered: u64, queue_sizes: &[u16]) -> Self {
        Self {
            offered,
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: queue_sizes.iter().copied().map(QueueRegisters::new).collect(),
        }
    }

    /// These registers, of a device that was just made, as `saved` left them. Of the features only those are offered
    /// further on that were offered before: the driver may have accepted others blindly.
    pub(super) fn restored(&self, saved: &Self) -> Result<Self, RestoreError> {
        let missing = saved.negotiated() & !self.offered;
        if missing != 0 {
            return Err(RestoreError::FeaturesMissing(missing));
        }
        let sizes = |registers: &Self| -> Vec<u16> { registers.queues.iter().map(|queue| queue.max_size).collect() };
        if sizes(self) != sizes(saved) {
            return Err(RestoreError::Impossible(Impossible::Queues));
        }
        let mut restored = saved.clone();
        restored.offered &= self.offered;
        // A status is possible if a driver can get there by writing it.
        restored.status = 0;
        restored.advance_status(saved.status);
        match restored.status == saved.status {
            true => Ok(restored),
            false => Err(RestoreError::Impossible(Impossible::DriverStatus)),
        }
    }

    /// Whether the initialisation is complete.
    pub(super) fn is_driver_ok(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK)
    }

    /// Forgets everything that the driver wrote.
    pub(super) fn reset(&mut self) {
        self.status = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        for queue in &mut self.queues {
            *queue = QueueRegisters::new(queue.max_size);
        }
    }

    /// Takes a non-zero write to the status register: true if it completed the initialisation with `DRIVER_OK`.
    ///
    /// Bits are only ever added. A step is taken once the one before it is; what comes too early is ignored, and the
    /// driver sees so when it reads the status back. After `FAILED` only a reset counts.
    pub(super) fn advance_status(&mut self, written: u32) -> bool {
        if self.has(VIRTIO_CONFIG_S_FAILED) {
            return false;
        }
        let was_running = self.has(VIRTIO_CONFIG_S_DRIVER_OK);
        for step in STEPS {
            let taken = written & step != 0;
            if !self.has(step) && !taken {
                break;
            }
            self.status |= step;
        }
        self.status |= written & VIRTIO_CONFIG_S_FAILED;
        !was_running && self.has(VIRTIO_CONFIG_S_DRIVER_OK) && !self.has(VIRTIO_CONFIG_S_FAILED)
    }

    /// What device and driver agreed on. Features that were never offered count as not accepted instead of failing the
    /// negotiation: some drivers acknowledge whatever they know. Others (OSv's) do not say that they follow version 1,
    /// though they found no other register layout than version 1's and act by it; a device may go on without that
    /// (§6.1), and it counts as accepted.
    pub(super) fn negotiated(&self) -> u64 {
        (self.driver_features | IMPLIED_FEATURES) & self.offered
    }

    /// Takes a write to `DriverFeatures`, as long as the features are open.
    pub(super) fn set_driver_features(&mut self, value: u32) {
        if self.has(VIRTIO_CONFIG_S_DRIVER)
            && !self.has(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED)
            && let Some(half) = Half::selected_by(self.driver_features_select)
        {
            half.set(&mut self.driver_features, value);
        }
    }

    /// Whether the driver may write the configuration space: it has introduced itself and not given up.
    pub(super) fn accepts_config_writes(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER) && !self.has(VIRTIO_CONFIG_S_FAILED)
    }

    /// The selected queue, if the device has it.
    pub(super) fn selected_queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    /// Takes a write to `QueueNum`.
    pub(super) fn set_queue_size(&mut self, size: u32) {
        if let Some(queue) = self.idle_queue() {
            queue.size = size;
        }
    }

    /// Takes a write to one half of one of the selected queue's addresses.
    pub(super) fn set_queue_address(&mut self, part: QueuePart, half: Half, value: u32) {
        let Some(queue) = self.idle_queue() else { return };
        let address = match part {
            QueuePart::Descriptors => &mut queue.descriptors,
            QueuePart::Driver => &mut queue.driver,
            QueuePart::Device => &mut queue.device,
        };
        half.set(address, value);
    }

    /// Takes a write to `QueueReady`. Of a running device single queues cannot be taken back: such a write is ignored,
    /// and the driver sees so when it reads the register, as it must (§4.2.2.2).
    pub(super) fn set_queue_ready(&mut self, value: u32) {
        if let Some(queue) = self.queue_being_set_up() {
            queue.ready = value & 1 != 0;
        }
    }

    /// The queues for the device, with event indices as negotiated.
    pub(super) fn queues(&self) -> Result<Vec<Queue>, virtio_queue::Error> {
        let event_idx = self.negotiated() & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        self.queues.iter().map(|queue| queue.queue(event_idx)).collect()
    }

    fn has(&self, any_of: u32) -> bool {
        self.status & any_of != 0
    }

    /// The selected queue between `FEATURES_OK` and `DRIVER_OK`.
    fn queue_being_set_up(&mut self) -> Option<&mut QueueRegisters> {
        let closed = VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED;
        if !self.has(VIRTIO_CONFIG_S_FEATURES_OK) || self.has(closed) {
            return None;
        }
        self.queues.get_mut(usize::try_from(self.queue_select).ok()?)
    }

    /// The same, unless it is ready already: its parts are fixed then.
    fn idle_queue(&mut self) -> Option<&mut QueueRegisters> {
        self.queue_being_set_up().filter(|queue| !queue.ready)
    }
}
