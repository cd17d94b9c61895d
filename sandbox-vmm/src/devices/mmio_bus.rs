//! The windows of the virtio-mmio devices, one behind the other from [`MMIO_START`].

use crate::devices::virtio::Progress;
use crate::devices::virtio::transport::MmioTransport;
use crate::memory::layout::{MMIO_START, MMIO_WINDOW_SIZE};

/// The devices in order of their windows.
#[derive(Default)]
pub struct MmioBus {
    windows: Vec<MmioTransport>,
}

impl MmioBus {
    /// Adds a device in the next window.
    pub fn add(&mut self, transport: MmioTransport) {
        self.windows.push(transport);
    }

    /// The guest read physical memory that is no RAM. Nobody there: all ones, as on an empty bus.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.window(address) {
            Some((window, offset)) => window.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest wrote physical memory that is no RAM. If more is left of what the write asks for, it is to be repeated.
    #[must_use]
    pub fn write(&self, address: u64, data: &[u8]) -> Progress {
        match self.window(address) {
            Some((window, offset)) => window.write(offset, data),
            None => Progress::Waiting,
        }
    }

    /// Every device, in the order of the windows.
    pub fn transports(&self) -> &[MmioTransport] {
        &self.windows
    }

    fn window(&self, address: u64) -> Option<(&MmioTransport, u64)> {
        let offset = address.checked_sub(MMIO_START)?;
        let window = self.windows.get(usize::try_from(offset / MMIO_WINDOW_SIZE).ok()?)?;
        Some((window, offset % MMIO_WINDOW_SIZE))
    }
}
