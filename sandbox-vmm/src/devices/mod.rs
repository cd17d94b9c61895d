//! The machine's devices.

pub mod legacy;
pub mod virtio;
