//! The machine's devices.

pub mod hvt;
pub mod legacy;
pub mod mmio_bus;
pub mod persist;
pub mod virtio;
