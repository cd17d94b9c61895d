//! What a device signals its driver with (virtio 1.3 §4.2.2, `InterruptStatus`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

/// `InterruptStatus` bit 0: a buffer was used.
const USED_BUFFER: u32 = 1;
/// `InterruptStatus` bit 1: the configuration changed.
const CONFIGURATION_CHANGED: u32 = 2;

/// An edge-triggered interrupt line of the machine.
pub trait InterruptLine: Send + Sync {
    /// Raises one edge. Never blocks on the guest.
    fn pulse(&self) -> io::Result<()>;
}

/// What an interrupt has told, or has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptState {
    /// `InterruptStatus`: the causes that the driver has not acknowledged.
    pub status: u32,
    /// `ConfigGeneration`.
    pub config_generation: u32,
    /// The device is broken until its driver resets it.
    pub needs_reset: bool,
}

/// A device's interrupt: the line, the status word that the driver reads and acknowledges, and what else a device tells
/// its driver of its own accord.
#[derive(Clone)]
pub struct Interrupt(Arc<Inner>);

struct Inner {
    status: AtomicU32,
    config_generation: AtomicU32,
    needs_reset: AtomicBool,
    line: Box<dyn InterruptLine>,
}

impl Interrupt {
    /// An interrupt over `line` with nothing pending.
    pub fn new(line: Box<dyn InterruptLine>) -> Self {
        Self(Arc::new(Inner {
            status: AtomicU32::new(0),
            config_generation: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            line,
        }))
    }

    /// Tells the driver that buffers were used.
    pub fn signal_used(&self) {
        self.signal(USED_BUFFER);
    }

    /// Tells the driver that the configuration space changed. To be called under the device's lock, which the change
    /// was made under: a driver that reads the space in several pieces sees by the generation that they do not belong
    /// together.
    pub fn signal_config_change(&self) {
        self.0.config_generation.fetch_add(1, Ordering::AcqRel);
        self.signal(CONFIGURATION_CHANGED);
    }

    /// Tells the driver that the device is broken and does nothing more before a reset (§2.1.2, `DEVICE_NEEDS_RESET`):
    /// for a driver that broke the rings themselves, after which no request can be told from garbage.
    pub fn signal_needs_reset(&self) {
        self.0.needs_reset.store(true, Ordering::Release);
        self.signal(CONFIGURATION_CHANGED);
    }

    /// Whether the device is broken until its driver resets it.
    pub fn needs_reset(&self) -> bool {
        self.0.needs_reset.load(Ordering::Acquire)
    }

    /// How often the configuration space changed, modulo 2^32 (`ConfigGeneration`).
    pub fn config_generation(&self) -> u32 {
        self.0.config_generation.load(Ordering::Acquire)
    }

    /// The pending causes, as the `InterruptStatus` register shows them.
    pub fn status(&self) -> u32 {
        self.0.status.load(Ordering::Acquire)
    }

    /// Clears the acknowledged causes (`InterruptACK`).
    pub fn acknowledge(&self, causes: u32) {
        self.0.status.fetch_and(!causes, Ordering::AcqRel);
    }

    /// Forgets what is pending, as a device reset demands.
    pub fn reset(&self) {
        self.0.needs_reset.store(false, Ordering::Release);
        self.0.status.store(0, Ordering::Release);
    }

    /// What there is to be saved.
    pub fn state(&self) -> InterruptState {
        InterruptState {
            status: self.status(),
            config_generation: self.config_generation(),
            needs_reset: self.needs_reset(),
        }
    }

    /// Takes over what was saved, without an edge. Causes that do not exist are left out.
    pub fn restore(&self, state: &InterruptState) {
        let causes = state.status & (USED_BUFFER | CONFIGURATION_CHANGED);
        self.0.status.store(causes, Ordering::Release);
        self.0
            .config_generation
            .store(state.config_generation, Ordering::Release);
        self.0.needs_reset.store(state.needs_reset, Ordering::Release);
    }

    /// Raises what is pending once more.
    pub fn signal_again(&self) {
        let pending = self.status();
        if pending != 0 {
            self.signal(pending);
        }
    }

    fn signal(&self, cause: u32) {
        self.0.status.fetch_or(cause, Ordering::AcqRel);
        // The line is a kernel object of this VM: it fails only when the VM is being torn down, and then nobody waits.
        if let Err(error) = self.0.line.pulse() {
            tracing::debug!(%error, "interrupt not delivered");
        }
    }
}
