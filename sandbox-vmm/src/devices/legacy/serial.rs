//! COM1: the guest's console.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbox_core::ConsoleLog;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, SerialState as UartState, Trigger};

use super::persist::SerialState;
use crate::devices::virtio::InterruptLine;
use crate::devices::virtio::persist::{Impossible, RestoreError};

/// COM1's interrupt.
pub const SERIAL_GSI: u32 = 4;
/// Input that waits for the guest to read it, in bytes: an embedder that passes on a stranger's input to a guest that
/// never reads must not fill memory with it.
const MAX_PENDING_INPUT: usize = 4096;

/// A 16550A whose output goes to a bounded log, and whose input waits in a bounded queue.
pub struct SerialPort {
    line: LineTrigger,
    console: LogWriter,
    inner: Mutex<Inner>,
}

struct Inner {
    uart: Serial<LineTrigger, NoEvents, LogWriter>,
    pending: VecDeque<u8>,
}

impl SerialPort {
    /// A port that writes to `console` and interrupts by `line`.
    pub fn new(console: Arc<ConsoleLog>, line: Box<dyn InterruptLine>) -> Self {
        let (line, console) = (LineTrigger(line.into()), LogWriter(console));
        let inner = Mutex::new(Inner {
            uart: Serial::new(line.clone(), console.clone()),
            pending: VecDeque::new(),
        });
        Self { line, console, inner }
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

    /// What there is to be saved.
    pub(super) fn save(&self) -> SerialState {
        let inner = self.lock();
        let UartState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer,
        } = inner.uart.state();
        SerialState {
            divisor: [baud_divisor_low, baud_divisor_high],
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            received: in_buffer,
            pending: inner.pending.iter().copied().collect(),
        }
    }

    /// Takes over what was saved, and interrupts the guest if it waits for that.
    pub(super) fn restore(&self, state: &SerialState) -> Result<(), RestoreError> {
        let impossible = || RestoreError::Impossible(Impossible::SerialBuffer);
        if state.pending.len() > MAX_PENDING_INPUT {
            return Err(impossible());
        }
        let [baud_divisor_low, baud_divisor_high] = state.divisor;
        let uart = UartState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.received.clone(),
        };
        let uart = Serial::from_state(&uart, self.line.clone(), NoEvents, self.console.clone());
        let mut inner = self.lock();
        inner.uart = uart.map_err(|_| impossible())?;
        inner.pending = state.pending.iter().copied().collect();
        Ok(())
    }

    /// Interrupts the guest for whatever it waits for, whether it was interrupted for that before or not.
    pub(super) fn wake(&self) {
        let state = self.save();
        if state.interrupt_enable != 0
            && let Err(error) = self.line.trigger()
        {
            tracing::debug!(%error, "serial port");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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

#[derive(Clone)]
struct LineTrigger(Arc<dyn InterruptLine>);

impl Trigger for LineTrigger {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.pulse()
    }
}

#[derive(Clone)]
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
    const INTERRUPT_ENABLE: u16 = 1;
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

    #[test]
    fn input_on_its_way_reaches_the_guest_of_a_restored_port() {
        let line = FakeLine::default();
        let port = SerialPort::new(Arc::new(ConsoleLog::new(64)), Box::new(line));
        port.write(INTERRUPT_ENABLE, 1);
        let sent: Vec<u8> = (0..200).collect();
        port.input(&sent);
        let mut received = vec![port.read(DATA)];
        let stored = serde_json::to_string(&port.save()).unwrap();

        let line = FakeLine::default();
        let port = SerialPort::new(Arc::new(ConsoleLog::new(64)), Box::new(line.clone()));
        port.restore(&serde_json::from_str(&stored).unwrap()).unwrap();
        let before = line.pulses();
        port.wake();
        assert_eq!(line.pulses(), before + 1);
        while port.read(LINE_STATUS) & DATA_READY != 0 {
            received.push(port.read(DATA));
        }
        assert_eq!(received, sent);
    }

    #[test]
    fn more_input_than_there_is_room_for_is_refused() {
        let port = SerialPort::new(Arc::new(ConsoleLog::new(64)), Box::new(FakeLine::default()));
        let state = port.save();
        let mut received = state.clone();
        received.received = vec![0; 65];
        let mut pending = state;
        pending.pending = vec![0; MAX_PENDING_INPUT + 1];
        for damaged in [received, pending] {
            assert!(port.restore(&damaged).is_err());
        }
    }
}
