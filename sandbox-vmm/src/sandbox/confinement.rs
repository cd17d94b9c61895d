//! What each thread that serves a guest gives up before it does.

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Runs guest code and serves its exits.
    Vcpu,
    /// Serves events of the host.
    Events,
    /// Takes the embedder's calls.
    Control,
}

/// What confines the threads that serve a guest.
pub trait Confinement: Send + Sync {
    /// The first thing that a thread of `role` does; for the control thread, the last thing that it does in `start`. No
    /// guest code runs before all threads have returned from it. It does not return where it cannot confine the thread.
    fn enter(&self, role: Role);
}

/// No confinement: the guest is trusted as much as the embedder.
pub struct Unconfined;

impl Confinement for Unconfined {
    fn enter(&self, _role: Role) {}
}
