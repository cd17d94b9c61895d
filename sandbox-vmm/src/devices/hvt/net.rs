//! A network card behind hypercalls: frames go between guest memory and a tap, one a call.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use sandbox_net::{Tap, VNET_HEADER_SIZE};
use vm_memory::{Bytes, GuestAddress};

use super::Outcome;
use crate::devices::virtio::net::NetCounters;
use crate::memory::GuestMemory;

/// Ethernet header, and a VLAN tag, in bytes.
const HEADERS: usize = 14 + 4;

/// A card.
pub struct HvtCard {
    tap: Tap,
    mac: [u8; 6],
    mtu: u16,
    /// One frame on its way, as long as the longest.
    frame: Mutex<Vec<u8>>,
    counters: Arc<NetCounters>,
}

impl HvtCard {
    /// A card before `tap`; `mtu` in bytes, without headers.
    pub fn new(tap: Tap, mac: [u8; 6], mtu: u16) -> Self {
        Self {
            tap,
            mac,
            mtu,
            frame: Mutex::new(vec![0; usize::from(mtu) + HEADERS]),
            counters: Arc::new(NetCounters::default()),
        }
    }

    /// Its address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Its MTU in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// What it has carried.
    pub fn counters(&self) -> Arc<NetCounters> {
        Arc::clone(&self.counters)
    }

    /// Sends the frame of `length` bytes at `address`. One that the host has no room for is lost, as on any network.
    pub(super) fn send(&self, memory: &GuestMemory, address: u64, length: u64) -> Outcome {
        let mut frame = self.frame.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(frame) = usize::try_from(length).ok().and_then(|length| frame.get_mut(..length)) else {
            return Outcome::Invalid;
        };
        if frame.is_empty() || memory.read_slice(frame, GuestAddress(address)).is_err() {
            return Outcome::Invalid;
        }
        // No offload is asked of the host.
        let header = [0; VNET_HEADER_SIZE];
        match self.tap.send(&[IoSlice::new(&header), IoSlice::new(frame)]) {
            Ok(Some(_)) => self.counters.sent(length),
            Ok(None) | Err(_) => self.counters.lost(),
        }
        Outcome::Done
    }

    /// Puts the next frame to `address`, where there is room for `length` bytes, and gives its length. A frame that does
    /// not fit is cut short.
    pub(super) fn receive(&self, memory: &GuestMemory, address: u64, length: u64) -> Result<u64, Outcome> {
        let mut frame = self.frame.lock().unwrap_or_else(PoisonError::into_inner);
        let mut header = [0; VNET_HEADER_SIZE];
        let received = match self
            .tap
            .receive(&mut [IoSliceMut::new(&mut header), IoSliceMut::new(&mut frame)])
        {
            Ok(Some(received)) => received.saturating_sub(VNET_HEADER_SIZE),
            Ok(None) => return Err(Outcome::Again),
            Err(_) => return Err(Outcome::Unspecified),
        };
        let room = usize::try_from(length).unwrap_or(usize::MAX);
        let taken = received.min(room).min(frame.len());
        memory
            .write_slice(&frame[..taken], GuestAddress(address))
            .map_err(|_| Outcome::Invalid)?;
        self.counters.received(taken as u64);
        Ok(taken as u64)
    }
}

impl AsFd for HvtCard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }
}
