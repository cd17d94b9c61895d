//! The filters of a worker's threads: each enters its own, and guest code runs when all have.

use std::sync::{Condvar, Mutex, PoisonError};

use sandbox_core::gate::Gate;

use super::jail::seccomp;
use super::protocol::Filters;
use crate::sandbox::confinement::{Confinement, Role};

/// A worker's confinement.
pub struct Confined {
    filters: Option<Filters>,
    /// Threads in their filters.
    entered: Mutex<usize>,
    one_more: Condvar,
    /// Opens when the control thread is in its own.
    sealed: Gate<()>,
    #[cfg(feature = "malice")]
    sandbox: String,
}

impl Confined {
    /// Confinement by `filters`, or by the rest of the jail alone, of the sandbox of this name.
    #[cfg_attr(not(feature = "malice"), allow(unused_variables))]
    pub fn new(filters: Option<Filters>, sandbox: &str) -> Self {
        Self {
            #[cfg(feature = "malice")]
            sandbox: sandbox.to_owned(),
            filters,
            entered: Mutex::new(0),
            one_more: Condvar::new(),
            sealed: Gate::default(),
        }
    }

    /// Confines a thread that serves the guest's pages before any other runs.
    pub fn enter_alone(&self) {
        self.install(Role::Events);
    }

    fn install(&self, role: Role) {
        let Some(filters) = &self.filters else { return };
        let filter = match role {
            Role::Vcpu => &filters.vcpu,
            Role::Events => &filters.events,
            Role::Control => &filters.control,
        };
        if let Err(error) = seccomp::install(filter) {
            eprintln!("the filter of the {role:?} thread cannot be installed: {error}");
            // SAFETY: ends the process, which must not serve a guest like this.
            unsafe { libc::_exit(1) };
        }
    }
}

impl Confinement for Confined {
    fn enter(&self, role: Role) {
        self.install(role);
        *self.entered.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.one_more.notify_all();
        self.sealed.wait(None);
        #[cfg(feature = "malice")]
        if role == Role::Vcpu {
            super::malice::attempt_by_name(&self.sandbox);
        }
    }

    fn seal(&self, threads: usize) {
        let mut entered = self.entered.lock().unwrap_or_else(PoisonError::into_inner);
        while *entered < threads {
            entered = self.one_more.wait(entered).unwrap_or_else(PoisonError::into_inner);
        }
        drop(entered);
        self.install(Role::Control);
        self.sealed.open(());
    }
}
