//! Processes of the SDK's own beside the embedder's.
//!
//! A micro-VM lives in a jailed *worker* of its own unless its spec says `in_process`; containers need a parent process
//! that learns how they end. Either is the embedder's own program, started once more. So that it can be, call
//! [`run_if_worker`] at the top of `main`. A program that cannot do so needs `sandbox-worker`: named by
//! [`WorkerOptions`](crate::WorkerOptions) or by the variable `SANDBOX_WORKER`, beside it, or on `PATH`.

#[cfg(feature = "malice")]
pub use sandbox_vmm::worker::malice;
pub use sandbox_vmm::worker::{beside_library, seccomp_report};

/// Does a worker's work and does not return, if this process was started as one; otherwise returns at once.
///
/// It comes first in `main`: before the program starts threads, which a worker must not have, and before it does
/// anything whose time a sandbox would have to wait for.
///
/// ```
/// sandbox::worker::run_if_worker();
/// // What the program is for.
/// ```
pub fn run_if_worker() {
    sandbox_vmm::worker::run_if_worker();
    sandbox_container::run_if_reaper();
}
