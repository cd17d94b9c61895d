//! How a driver reaches its device: virtio over memory-mapped registers.

mod mmio;
mod persist;
mod registers;
#[cfg(test)]
mod tests;

pub use mmio::MmioTransport;
pub use persist::{Frozen, TransportState};
pub use registers::{QueueRegisters, Registers};
