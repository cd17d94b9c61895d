//! A hypercall's argument in guest memory: every field is read once, and checked to lie in RAM.

use vm_memory::{Bytes, GuestAddress};

use super::{Outcome, Outside};
use crate::devices::virtio::segments::Segments;
use crate::memory::GuestMemory;

/// Where the argument of one call stands.
#[derive(Clone, Copy)]
pub(super) struct Argument<'a> {
    memory: &'a GuestMemory,
    address: u32,
}

impl<'a> Argument<'a> {
    pub(super) fn new(memory: &'a GuestMemory, address: u32) -> Self {
        Self { memory, address }
    }

    pub(super) fn address(&self) -> u32 {
        self.address
    }

    /// The 64-bit field at `offset`.
    pub(super) fn read(&self, offset: u64) -> Result<u64, Outside> {
        self.memory.read_obj(self.field(offset)).map_err(|_| Outside)
    }

    /// The 32-bit signed field at `offset`.
    pub(super) fn read_status(&self, offset: u64) -> Result<i32, Outside> {
        self.memory.read_obj(self.field(offset)).map_err(|_| Outside)
    }

    /// Fills the 64-bit field at `offset`.
    pub(super) fn write(&self, offset: u64, value: u64) -> Result<(), Outside> {
        self.memory.write_obj(value, self.field(offset)).map_err(|_| Outside)
    }

    /// Fills the result at `offset`.
    pub(super) fn write_outcome(&self, offset: u64, outcome: Outcome) -> Result<(), Outside> {
        self.memory
            .write_obj(outcome as u32, self.field(offset))
            .map_err(|_| Outside)
    }

    /// The `length` bytes at `address`, which must lie in RAM.
    pub(super) fn data(&self, address: u64, length: u64) -> Result<Segments, Outside> {
        let mut data = Segments::new(self.memory.clone());
        let length = usize::try_from(length).map_err(|_| Outside)?;
        match length {
            0 => Ok(data),
            _ => data.push(GuestAddress(address), length).map(|()| data).ok_or(Outside),
        }
    }

    /// The sum of a 32-bit and a small number does not overflow.
    fn field(&self, offset: u64) -> GuestAddress {
        GuestAddress(u64::from(self.address) + offset)
    }
}
