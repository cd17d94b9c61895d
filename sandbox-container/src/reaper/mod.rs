//! The parent of all containers.
//!
//! A runtime's `create` starts the container's first process and ends; the kernel then gives that process to the
//! nearest *subreaper* above it, which alone can learn how it ends. Making the embedder one would hand it all orphans
//! of its other children as well, so a process of our own is it: the embedder's program started once more, or
//! `sandbox-worker`. One serves all containers of a backend. It runs the runtimes' commands, says how its children
//! ended, those that it adopted included, and when the embedder is gone it removes what is left and ends.
//!
//! Exit statuses are the kernel's own, whatever became of the runtime. Should the reaper be killed, its containers'
//! exit statuses are lost, which is what they are told to have; they are killed, and the next container gets a new one.

mod client;
mod protocol;
mod server;

pub use client::{Adoption, Call, CallError, Reaper};
pub use protocol::{STREAMS, Status, receive_descriptor};

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this program can be its own reaper.
static IS_OFFERED: AtomicBool = AtomicBool::new(false);

/// Becomes a reaper and does not return, if this process was started as one; a program that has called it can be its own
/// reaper. Call it first in `main`.
pub fn run_if_reaper() {
    if !server::is_reaper() {
        IS_OFFERED.store(true, Ordering::Relaxed);
        return;
    }
    // There is nobody left to tell of an error but whoever looks at the status.
    let status = i32::from(server::serve().is_err());
    // SAFETY: ends the process; nothing of it is left to be cleaned up that the kernel does not.
    unsafe { libc::_exit(status) }
}
