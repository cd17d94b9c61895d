//! What a device signals its driver with (virtio 1.3 §4.2.2, `InterruptStatus`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// `InterruptStatus` bit 0: a buffer was used.
const USED_BUFFER: u32 = 1;
/// `InterruptStatus` bit 1: the configuration changed.
const CONFIGURATION_CHANGED: u32 = 2;

/// An edge-triggered interrupt line of the machine.
pub trait InterruptLine: Send + Sync {
    /// Raises one edge. Never blocks on the guest.
    fn pulse(&self) -> io::Result<()>;
}

/// A device's interrupt: the line, and the status word that the driver reads and acknowledges.
#[derive(Clone)]
pub struct Interrupt(Arc<Inner>);

struct Inner {
    status: AtomicU32,
    line: Box<dyn InterruptLine>,
}

impl Interrupt {
    /// An interrupt over `line` with nothing pending.
    pub fn new(line: Box<dyn InterruptLine>) -> Self {
        Self(Arc::new(Inner {
            status: AtomicU32::new(0),
            line,
        }))
    }

    /// Tells the driver that buffers were used.
    pub fn signal_used(&self) {
        self.signal(USED_BUFFER);
    }

    /// Tells the driver that the configuration space changed.
    pub fn signal_config_change(&self) {
        self.signal(CONFIGURATION_CHANGED);
    }

    /// The pending causes, as the `InterruptStatus` register shows them.
    pub fn status(&self) -> u32 {
        self.0.status.load(Ordering::Acquire)
    }

    /// Clears the acknowledged causes (`InterruptACK`).
    pub fn acknowledge(&self, causes: u32) {
        self.0.status.fetch_and(!causes, Ordering::AcqRel);
    }

    fn signal(&self, cause: u32) {
        self.0.status.fetch_or(cause, Ordering::AcqRel);
        // The line is a kernel object of this VM: it fails only when the VM is being torn down, and then nobody waits.
        if let Err(error) = self.0.line.pulse() {
            tracing::debug!(%error, "interrupt not delivered");
        }
    }
}
