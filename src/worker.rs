//! Processes of the SDK's own beside the embedder's.
//!
//! Containers need a parent process that learns how they end; it is the embedder's own program, started once more. So
//! that it can be, call [`run_if_worker`] at the top of `main`. A program that cannot do so needs `sandbox-worker`
//! beside it or on `PATH`.

/// Does a worker's work and does not return, if this process was started as one; otherwise returns at once.
///
/// ```
/// sandbox::worker::run_if_worker();
/// // What the program is for.
/// ```
pub fn run_if_worker() {
    sandbox_container::run_if_reaper();
}
