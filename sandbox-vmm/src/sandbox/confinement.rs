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

/// What confines the threads that serve a guest. None of its functions returns where it cannot confine the thread.
pub trait Confinement: Send + Sync {
    /// The first thing that a thread of `role` does. It returns when all threads are confined: no guest code runs before.
    fn enter(&self, role: Role);

    /// Confines the calling thread, the one that takes the embedder's calls, as soon as all the `threads` that were
    /// started have entered, and lets these go on.
    fn seal(&self, threads: usize);
}

/// No confinement: the guest is trusted as much as the embedder.
pub struct Unconfined;

impl Confinement for Unconfined {
    fn enter(&self, _role: Role) {}

    fn seal(&self, _threads: usize) {}
}
