//! The virtio-mmio transport, version 2 (virtio 1.3 §4.2.2).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_mmio::*;
use virtio_queue::QueueT;

use super::registers::{Half, QueuePart, QueueRegisters, Registers};
use crate::devices::virtio::{
    ActivateError, Activation, DeviceKind, Interrupt, InterruptLine, Progress, QueuePosition, Shared, VirtioDevice,
};
use crate::memory::layout::MMIO_WINDOW_SIZE;
use crate::memory::{GuestMemory, GuestRam};

/// `MagicValue`.
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// `Version`: 1 is the legacy interface.
const VERSION: u32 = 2;
/// `VendorID`; no driver looks at it.
const VENDOR: u32 = u32::from_le_bytes(*b"SBOX");
/// First offset of the device's configuration space.
const CONFIG_START: u64 = VIRTIO_MMIO_CONFIG as u64;

/// Why the device did not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("a queue has an impossible size or a misaligned address")]
    QueueLayout(#[source] virtio_queue::Error),
    #[error("queue {0} does not lie in guest memory")]
    QueueAddress(usize),
    #[error("the device refused")]
    Device(#[source] ActivateError),
}

/// One device's window of [`MMIO_WINDOW_SIZE`] bytes.
///
/// Accesses may come from all vCPU threads at once; no lock is needed around it. A kick takes the device's lock alone,
/// and the interrupt registers take none, so that a vCPU in its interrupt handler does not wait for another one whose
/// kick is being served.
///
/// Control registers are 32 bits wide: other accesses to them, and offsets without a register, read as zero and are
/// ignored when written (§4.2.2.2 leaves them open). The configuration space takes any width.
pub struct MmioTransport {
    pub(super) kind: DeviceKind,
    queue_count: u32,
    memory: GuestMemory,
    pub(super) interrupt: Interrupt,
    registers: Mutex<Registers>,
    pub(super) device: Arc<Shared<dyn VirtioDevice>>,
    /// The device is between `activate` and `reset`. Changed, and for a kick looked at, under the device's lock only.
    pub(super) active: AtomicBool,
}

impl MmioTransport {
    /// The window of `device`, which signals by `line` and whose queues lie in `memory`.
    pub fn new(device: Arc<Shared<dyn VirtioDevice>>, memory: GuestMemory, line: Box<dyn InterruptLine>) -> Self {
        let guard = device.lock();
        let kind = guard.kind();
        let registers = Registers::new(offered(&*guard), guard.queue_sizes());
        drop(guard);
        Self {
            kind,
            queue_count: registers.queues.len() as u32,
            memory,
            interrupt: Interrupt::new(line),
            registers: Mutex::new(registers),
            device,
            active: AtomicBool::new(false),
        }
    }

    /// The driver reads `data.len()` bytes at `offset` in the window.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        match offset.checked_sub(CONFIG_START) {
            Some(offset) => self.read_config(offset, data),
            None => match <&mut [u8; 4]>::try_from(&mut *data) {
                Ok(data) => *data = self.read_register(offset as u32).to_le_bytes(),
                Err(_) => data.fill(0),
            },
        }
    }

    /// The driver writes `data` at `offset` in the window. When it was a kick whose work was more than one call does,
    /// the same write is to be repeated.
    pub fn write(&self, offset: u64, data: &[u8]) -> Progress {
        match offset.checked_sub(CONFIG_START) {
            Some(offset) => self.write_config(offset, data),
            None => {
                if let Ok(data) = <[u8; 4]>::try_from(data) {
                    return self.write_register(offset as u32, u32::from_le_bytes(data));
                }
            }
        }
        Progress::Waiting
    }

    fn read_register(&self, offset: u32) -> u32 {
        match offset {
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.kind as u32,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => {
                let registers = self.registers();
                Half::selected_by(registers.device_features_select).map_or(0, |half| half.of(registers.offered))
            }
            VIRTIO_MMIO_STATUS => self.status(),
            VIRTIO_MMIO_CONFIG_GENERATION => {
                // A device changes its configuration and the generation in one go, under this lock.
                let _device = self.device.lock();
                self.interrupt.config_generation()
            }
            // There are no shared memory regions: their length and address read as -1 (§4.2.2).
            VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH if offset.is_multiple_of(4) => u32::MAX,
            _ => self
                .registers()
                .selected_queue()
                .map_or(0, |queue| read_queue_register(queue, offset)),
        }
    }

    fn write_register(&self, offset: u32, value: u32) -> Progress {
        match offset {
            VIRTIO_MMIO_QUEUE_NOTIFY => return self.kick(value),
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            VIRTIO_MMIO_STATUS => self.set_status(value),
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.registers().device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.registers().driver_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.registers().set_driver_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.registers().queue_select = value,
            VIRTIO_MMIO_QUEUE_NUM => self.registers().set_queue_size(value),
            VIRTIO_MMIO_QUEUE_READY => self.registers().set_queue_ready(value),
            _ => {
                if let Some((part, half)) = queue_address(offset) {
                    self.registers().set_queue_address(part, half, value);
                }
            }
        }
        Progress::Waiting
    }

    /// The driver made buffers available in `queue`: served here and now, on the vCPU thread that noticed.
    fn kick(&self, queue: u32) -> Progress {
        if queue >= self.queue_count {
            return Progress::Waiting;
        }
        self.device.serve(|device| match self.active.load(Ordering::Relaxed) {
            // A device has at most 2^16 queues, being told one by a u16.
            true => device.queue_notify(queue as u16),
            false => Progress::Waiting,
        })
    }

    fn status(&self) -> u32 {
        let broken = match self.interrupt.needs_reset() {
            true => VIRTIO_CONFIG_S_NEEDS_RESET,
            false => 0,
        };
        self.registers().status | broken
    }

    fn set_status(&self, value: u32) {
        let mut registers = self.registers();
        if value == 0 {
            registers.reset();
            let mut device = self.device.lock();
            self.active.store(false, Ordering::Relaxed);
            device.reset();
            self.interrupt.reset();
        } else if registers.advance_status(value)
            && let Err(error) = self.start(&registers)
        {
            tracing::warn!(device = ?self.kind, error = &error as &dyn std::error::Error, "virtio device not started");
            self.interrupt.signal_needs_reset();
        }
    }

    /// The driver set `DRIVER_OK`.
    fn start(&self, registers: &Registers) -> Result<(), StartError> {
        let mut device = self.device.lock();
        self.activate(&mut *device, registers, &[])?;
        device.wake();
        Ok(())
    }

    /// Gives the device its queues; those that have a position in `positions` go on from there.
    pub(super) fn activate(
        &self,
        device: &mut dyn VirtioDevice,
        registers: &Registers,
        positions: &[QueuePosition],
    ) -> Result<(), StartError> {
        let memory: &GuestRam = &self.memory;
        let mut queues = registers.queues().map_err(StartError::QueueLayout)?;
        for (queue, position) in queues.iter_mut().zip(positions) {
            queue.set_next_avail(position.next_available);
            queue.set_next_used(position.next_used);
        }
        let misplaced = queues.iter().position(|queue| queue.ready() && !queue.is_valid(memory));
        if let Some(index) = misplaced {
            return Err(StartError::QueueAddress(index));
        }
        device
            .activate(Activation {
                memory: self.memory.clone(),
                queues,
                interrupt: self.interrupt.clone(),
                features: registers.negotiated(),
            })
            .map_err(StartError::Device)?;
        self.active.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        match config_contains(offset, data.len()) {
            true => self.device.lock().read_config(offset, data),
            false => data.fill(0),
        }
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        if config_contains(offset, data.len()) && self.registers().accepts_config_writes() {
            self.device.lock().write_config(offset, data);
        }
    }

    pub(super) fn registers(&self) -> MutexGuard<'_, Registers> {
        lock(&self.registers)
    }
}

fn read_queue_register(queue: &QueueRegisters, offset: u32) -> u32 {
    match offset {
        VIRTIO_MMIO_QUEUE_NUM_MAX => u32::from(queue.max_size),
        VIRTIO_MMIO_QUEUE_READY => u32::from(queue.ready),
        _ => 0,
    }
}

/// Which part of a queue's addresses is written at `offset`.
fn queue_address(offset: u32) -> Option<(QueuePart, Half)> {
    Some(match offset {
        VIRTIO_MMIO_QUEUE_DESC_LOW => (QueuePart::Descriptors, Half::Low),
        VIRTIO_MMIO_QUEUE_DESC_HIGH => (QueuePart::Descriptors, Half::High),
        VIRTIO_MMIO_QUEUE_AVAIL_LOW => (QueuePart::Driver, Half::Low),
        VIRTIO_MMIO_QUEUE_AVAIL_HIGH => (QueuePart::Driver, Half::High),
        VIRTIO_MMIO_QUEUE_USED_LOW => (QueuePart::Device, Half::Low),
        VIRTIO_MMIO_QUEUE_USED_HIGH => (QueuePart::Device, Half::High),
        _ => return None,
    })
}

/// Whether `len` bytes at `offset` of the configuration space lie in the window.
fn config_contains(offset: u64, len: usize) -> bool {
    offset
        .checked_add(len as u64)
        .is_some_and(|end| end <= MMIO_WINDOW_SIZE - CONFIG_START)
}

/// What `device` offers, with what the transport adds.
pub(super) fn offered(device: &dyn VirtioDevice) -> u64 {
    device.features() | 1 << VIRTIO_F_VERSION_1
}

/// A device that panicked under its lock is no reason to panic again: its sandbox goes on as far as it can.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
