//! COM1: the guest's console.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbox_core::ConsoleLog;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::devices::virtio::InterruptLine;

/// COM1's interrupt.
pub const SERIAL_GSI: u32 = 4;
/// Input that waits for the guest to read it, in bytes: an embedder that passes on a stranger's input to a guest that
/// never reads must not fill memory with it.
const MAX_PENDING_INPUT: usize = 4096;

/// A 16550A whose output goes to a bounded log, and whose input waits in a bounded queue.
pub struct SerialPort(Mutex<Inner>);

struct Inner {
    uart: Serial<LineTrigger, NoEvents, LogWriter>,
    pending: VecDeque<u8>,
}

impl SerialPort {
    /// A port that writes to `console` and interrupts by `line`.
    pub fn new(console: Arc<ConsoleLog>, line: Box<dyn InterruptLine>) -> Self {
        Self(Mutex::new(Inner {
            uart: Serial::new(LineTrigger(line), LogWriter(console)),
            pending: VecDeque::new(),
        }))
    }

    /// Takes as much of `bytes` as there is room for, and returns how much that was.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut inner = self.lock();
        let taken = bytes.len().min(MAX_PENDING_INPUT - inner.pending.len());
        inner.pending.extend(&bytes[..taken]);
        inner.feed();
        taken
    }

    pub(super) fn read(&self, register: u16) -> u8 {
        let mut inner = self.lock();
        let value = inner.uart.read(register as u8);
        inner.feed();
        value
    }

    pub(super) fn write(&self, register: u16, value: u8) {
        // The interrupt of a VM that is being torn down is not missed, and the log takes everything.
        if let Err(error) = self.lock().uart.write(register as u8, value) {
            tracing::debug!(%error, "serial port");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Moves waiting input into the receive FIFO as far as it has room.
    fn feed(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let room = self.uart.fifo_capacity().min(self.pending.len());
        if room > 0 {
            let bytes: Vec<u8> = self.pending.drain(..room).collect();
            if let Err(error) = self.uart.enqueue_raw_bytes(&bytes) {
                tracing::debug!(%error, "serial port input");
            }
        }
    }
}

struct LineTrigger(Box<dyn InterruptLine>);

impl Trigger for LineTrigger {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.pulse()
    }
}

struct LogWriter(Arc<ConsoleLog>);

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::test_support::FakeLine;

    const DATA: u16 = 0;
    const LINE_STATUS: u16 = 5;
    const DATA_READY: u8 = 1;

    #[test]
    fn input_beyond_the_fifo_waits_and_arrives_whole() {
        let port = SerialPort::new(Arc::new(ConsoleLog::new(64)), Box::new(FakeLine::default()));
        let sent: Vec<u8> = (0..200).collect();
        assert_eq!(port.input(&sent), sent.len());
        let mut received = Vec::new();
        while port.read(LINE_STATUS) & DATA_READY != 0 {
            received.push(port.read(DATA));
        }
        assert_eq!(received, sent);
    }

    #[test]
    fn input_that_nobody_reads_is_bounded() {
        let port = SerialPort::new(Arc::new(ConsoleLog::new(64)), Box::new(FakeLine::default()));
        let first = port.input(&[0; 2 * MAX_PENDING_INPUT]);
        assert_eq!(first, MAX_PENDING_INPUT);
        assert!(port.input(&[0; MAX_PENDING_INPUT]) <= 64);
    }
}
