//! The port at which a program in the guest learns that the guest is a clone (see [`crate::renewal`]).
//!
//! The device itself answers at this port of the host. A program in the guest connects to it and sends four bytes, the
//! parts of an identity record that it can use. In an original nothing more comes. In a clone the connection is gone, as
//! all are; when the program connects anew it is sent the record, and when it has used it sends the record's generation.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::watcher::{Source, Watcher};
use crate::renewal::Parts;
use crate::renewal::record::{RECORD_SIZE, SUBSCRIPTION};

/// The port, "SBID".
pub const IDENTITY_PORT: u32 = 0x5342_4944;

/// Bytes taken at a time. More comes only from a program that makes things up, and is lost.
const MESSAGE_ROOM: usize = 64;

/// Whom a guest's confirmation of a generation is told.
pub type OnConfirmed = Box<dyn Fn(u32) + Send>;

/// The device's end of that connection, of which there is one at a time.
pub(super) struct IdentityService {
    confirmed: OnConfirmed,
    stream: Option<UnixStream>,
    /// What the program uses.
    parts: Parts,
    /// What it will be told when it connects.
    record: Option<[u8; RECORD_SIZE]>,
}

impl IdentityService {
    pub(super) fn new(confirmed: OnConfirmed) -> Self {
        Self {
            confirmed,
            stream: None,
            parts: Parts::default(),
            record: None,
        }
    }

    /// The guest connects: the end that is the guest's. An earlier connection is closed.
    pub(super) fn connect(&mut self, watcher: &Watcher) -> io::Result<UnixStream> {
        let (guests, mut own) = UnixStream::pair()?;
        guests.set_nonblocking(true)?;
        own.set_nonblocking(true)?;
        if let Some(record) = &self.record {
            // An empty socket has room for it.
            own.write_all(record)?;
        }
        watcher.add(own.as_raw_fd(), Source::Identity)?;
        self.stream = Some(own);
        Ok(guests)
    }

    /// Takes what the guest sent.
    pub(super) fn receive(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let mut room = [0; MESSAGE_ROOM];
        match stream.read(&mut room) {
            Ok(0) => self.stream = None,
            Ok(length) => {
                for word in room[..length].as_chunks().0 {
                    self.take(u32::from_le_bytes(*word));
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.stream = None,
        }
    }

    fn take(&mut self, word: u32) {
        match word & SUBSCRIPTION {
            0 => (self.confirmed)(word),
            _ => self.parts = Parts(word & !SUBSCRIPTION),
        }
    }

    /// The parts that a program in the guest uses; none if there is no such program.
    pub(super) fn parts(&self) -> Parts {
        match self.stream {
            Some(_) => self.parts,
            None => Parts::default(),
        }
    }

    /// The device is a clone's, whose original had a program that uses these parts.
    pub(super) fn restore(&mut self, parts: Parts) {
        self.parts = parts;
    }

    /// What the program is to be told; returns the parts that it uses, or `None` if there is no program.
    pub(super) fn tell(&mut self, record: &[u8; RECORD_SIZE]) -> Option<Parts> {
        self.record = Some(*record);
        (self.parts != Parts::default()).then_some(self.parts)
    }

    /// The guest's driver is gone, and with it whoever was connected.
    pub(super) fn reset(&mut self) {
        self.stream = None;
        self.parts = Parts::default();
    }
}
