//! What a host program has not read yet.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;

use super::unix;
use crate::devices::virtio::segments::Segments;

/// Bytes on their way to a socket that was full. Takes no memory while there are none.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// Those before this one are gone.
    start: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Number of bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Appends all of `segments`.
    pub(super) fn push(&mut self, segments: &Segments) {
        self.bytes.drain(..self.start);
        self.start = 0;
        let old_len = self.bytes.len();
        self.bytes.resize(old_len + segments.bytes(), 0);
        segments.read_at(0, &mut self.bytes[old_len..]);
    }

    /// Sends as much as `socket` takes. Returns how many bytes that was.
    pub(super) fn send_to(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut sent = 0;
        while !self.is_empty() {
            match unix::send(socket, &self.bytes[self.start..]) {
                Ok(length) => {
                    self.start += length;
                    sent += length;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.start == self.bytes.len() {
                self.clear();
            }
        }
        Ok(sent)
    }

    /// Forgets everything, and gives the memory back.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
