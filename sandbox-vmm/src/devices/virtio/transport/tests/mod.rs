//! A transport over a device that records, and what a guest does with it.

mod registers;
mod saved_state;

use std::sync::Arc;

use proptest::prelude::*;
use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;

use super::*;
use crate::devices::virtio::net::NetState;
use crate::devices::virtio::persist::Impossible;
use crate::devices::virtio::test_support::{DriverQueue, FakeLine, guest_memory};
use crate::devices::virtio::{
    ActivateError, Activation, DeviceKind, DeviceState, Held, Progress, QueuePosition, RestoreError, SavedDevice,
    Shared, VirtioDevice,
};
use crate::memory::GuestMemory;

const OFFERED: u64 = 1 << VIRTIO_RING_F_EVENT_IDX | 1 << 5;
const QUEUE_SIZES: [u16; 2] = [16, 8];
const CONFIG: u64 = VIRTIO_MMIO_CONFIG as u64;
const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;

/// Records what the transport asks of it.
#[derive(Default)]
struct FakeDevice {
    refuses: bool,
    activation: Option<Activation>,
    activations: usize,
    resets: usize,
    kicks: Vec<u16>,
    wakes: usize,
    config: [u8; 16],
}

impl VirtioDevice for FakeDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        OFFERED
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = self.config.get(offset as usize + index).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (index, byte) in data.iter().enumerate() {
            if let Some(slot) = self.config.get_mut(offset as usize + index) {
                *slot = *byte;
            }
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        assert!(self.activation.is_none(), "activated twice without a reset");
        self.activations += 1;
        if self.refuses {
            return Err(ActivateError::QueueNotReady(1));
        }
        self.activation = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        self.activation = None;
        self.resets += 1;
    }

    fn queue_notify(&mut self, queue: u16) -> Progress {
        assert!(self.activation.is_some(), "kicked outside its session");
        self.kicks.push(queue);
        match self.kicks.len() {
            1 => Progress::More,
            _ => Progress::Waiting,
        }
    }

    fn wake(&mut self) {
        assert!(self.activation.is_some(), "woken outside its session");
        self.wakes += 1;
    }

    fn save(&mut self) -> SavedDevice {
        let queues = self.activation.iter().flat_map(|activation| &activation.queues);
        let positions = queues.map(|queue| QueuePosition {
            next_available: queue.next_avail(),
            next_used: queue.next_used(),
        });
        SavedDevice {
            positions: positions.collect(),
            state: DeviceState::Net(NetState { mac: [0; 6] }),
        }
    }

    fn restore(&mut self, _state: &DeviceState) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// A transport over a [`FakeDevice`], driven as a guest would.
struct Bench {
    transport: MmioTransport,
    device: Arc<Shared<FakeDevice>>,
    line: FakeLine,
    memory: GuestMemory,
}

impl Bench {
    fn new() -> Self {
        let device = Arc::new(Shared::new(FakeDevice::default()));
        let line = FakeLine::default();
        let memory = guest_memory(1);
        let transport = MmioTransport::new(device.clone(), memory.clone(), Box::new(line.clone()));
        Self {
            transport,
            device,
            line,
            memory,
        }
    }

    fn read(&self, register: u32) -> u32 {
        let mut data = [0xaa; 4];
        self.transport.read(u64::from(register), &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, register: u32, value: u32) {
        self.transport.write(u64::from(register), &value.to_le_bytes());
    }

    fn device(&self) -> Held<'_, FakeDevice> {
        self.device.lock()
    }

    fn accept(&self, features: u64) {
        for window in 0..2 {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, window);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, (features >> (32 * window)) as u32);
        }
    }

    /// Goes to FEATURES_OK with `features` and VERSION_1.
    fn negotiate(&self, features: u64) {
        self.write(VIRTIO_MMIO_STATUS, ACKNOWLEDGE);
        self.write(VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER);
        self.accept(features | 1 << VIRTIO_F_VERSION_1);
        self.write(VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    }

    fn set_up_queue(&self, index: u32, size: u32, addresses: [u64; 3]) {
        self.write(VIRTIO_MMIO_QUEUE_SEL, index);
        self.write(VIRTIO_MMIO_QUEUE_NUM, size);
        let registers = [
            VIRTIO_MMIO_QUEUE_DESC_LOW,
            VIRTIO_MMIO_QUEUE_AVAIL_LOW,
            VIRTIO_MMIO_QUEUE_USED_LOW,
        ];
        for (low, address) in registers.into_iter().zip(addresses) {
            self.write(low, address as u32);
            self.write(low + 4, (address >> 32) as u32);
        }
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    fn set_up_both_queues(&self) {
        self.set_up_queue(0, 16, DriverQueue::new(&self.memory, 0x1000, 16).addresses());
        self.set_up_queue(1, 4, DriverQueue::new(&self.memory, 0x2000, 4).addresses());
    }

    fn go(&self) {
        self.write(VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    fn start(&self, features: u64) {
        self.negotiate(features);
        self.set_up_both_queues();
        self.go();
    }
}
