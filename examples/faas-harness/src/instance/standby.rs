//! What the instances of one function come from, and those that stand by without running.

use std::sync::Arc;
use std::time::Duration;

use sandbox::pool::Pool;
use sandbox::{Error, ErrorKind};

use super::lazy::Lazy;
use super::prepared::Prepared;
use super::template::Template;
use super::{LaunchError, Launcher};
use crate::function::FunctionSpec;

/// What the instances of one function share.
#[derive(Default)]
pub struct Sources {
    pub(super) template: Arc<Lazy<Template>>,
    standby: Lazy<Pool<Prepared>>,
}

impl Sources {
    /// Begins to make the sandboxes that stand by; nothing is done if that was begun before.
    ///
    /// # Errors
    /// A host without threads left, or a function that is being removed.
    pub fn stand_by(&self, launcher: &Arc<Launcher>, function: &Arc<FunctionSpec>) -> Result<(), LaunchError> {
        self.standby(launcher, function).map(drop)
    }

    /// How many stand by now.
    pub fn standing_by(&self) -> usize {
        self.standby.made().map_or(0, |pool| pool.metrics().ready)
    }

    /// Waits until all are ready that are to be; false when `timeout` is over first, or one could not be made.
    pub fn await_standing_by(&self, timeout: Duration) -> bool {
        self.standby.made().is_none_or(|pool| pool.wait_full(timeout))
    }

    /// One that stands by; none if all are taken.
    pub(super) fn take(
        &self,
        launcher: &Arc<Launcher>,
        function: &Arc<FunctionSpec>,
    ) -> Result<Option<Prepared>, LaunchError> {
        let pool = self.standby(launcher, function)?;
        loop {
            match pool.take() {
                Some(prepared) if prepared.is_sound() => return Ok(Some(prepared)),
                // Killed while it stood by.
                Some(dead) => drop(dead),
                None => return Ok(None),
            }
        }
    }

    fn standby(
        &self,
        launcher: &Arc<Launcher>,
        function: &Arc<FunctionSpec>,
    ) -> Result<Arc<Pool<Prepared>>, LaunchError> {
        let make = || {
            let (launcher, spec, template) = (Arc::clone(launcher), Arc::clone(function), Arc::clone(&self.template));
            let make = move || {
                let prepared = launcher.prepare(&spec, &template);
                prepared.map_err(|error| Error::new(ErrorKind::HostFailure, error.reason))
            };
            Pool::new(function.pool() as usize, make).map_err(|error| LaunchError::new(&error, String::new()))
        };
        self.standby.get(|_| true, make)
    }

    /// Gives everything up, for good. Blocks until the kernel has let go.
    pub fn close(&self) {
        self.standby.close();
        self.template.close();
    }
}
