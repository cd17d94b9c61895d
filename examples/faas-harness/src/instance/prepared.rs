//! A sandbox that is made and does not run yet: the last step of every start.

use std::net::IpAddr;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use sandbox::{Error, ErrorKind, Sandbox, State};

use super::ready::News;
use super::{Home, Instance, LaunchError, ReadyBoard};
use crate::function::{FunctionSpec, Readiness};

/// Lines of the console that a failed start is explained with.
const CONSOLE_LINES: usize = 10;

/// A sandbox that was created, or cloned from one that was ready. Dropping it gives it back, and blocks until that is
/// done.
pub(super) struct Prepared(Home);

impl Prepared {
    pub(super) fn new(home: Home) -> Self {
        Self(home)
    }

    /// Whether it can still be run: its process may have been killed meanwhile.
    pub(super) fn is_sound(&self) -> bool {
        matches!(self.0.sandbox.state(), State::Created | State::Paused)
    }

    /// Lets it run, and waits until it is ready; its start began at `begin`.
    pub(super) fn run(
        self,
        function: &FunctionSpec,
        board: &ReadyBoard,
        begin: Instant,
    ) -> Result<Instance, LaunchError> {
        let sandbox = &*self.0.sandbox;
        let up = match sandbox.state() {
            // A clone of one that was ready is ready.
            State::Paused => sandbox.resume(),
            _ => boot(sandbox, function, board, self.0.place.address.ip()),
        };
        match up {
            Ok(()) => Ok(Instance::new(self.0, begin.elapsed())),
            Err(error) => Err(LaunchError::new(&error, sandbox.console().tail(CONSOLE_LINES))),
        }
    }
}

fn boot(sandbox: &dyn Sandbox, function: &FunctionSpec, board: &ReadyBoard, guest: IpAddr) -> sandbox::Result<()> {
    let patience = function.scale.start_wait();
    match function.ready {
        Readiness::Check => {
            sandbox.start()?;
            sandbox.wait_ready(patience)
        }
        Readiness::Post => {
            // Listened for from before the start, so that nothing is said to nobody.
            let awaited = board.await_instance(guest, &sandbox.console());
            sandbox.start()?;
            match awaited.news.recv_timeout(patience) {
                Ok(News::Ready) => Ok(()),
                Ok(News::Ended) => Err(ended(sandbox)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    Err(Error::timeout("the instance's POST"))
                }
            }
        }
    }
}

fn ended(sandbox: &dyn Sandbox) -> Error {
    // The exit is known before the console closes.
    match sandbox.wait(Some(Duration::ZERO)) {
        Ok(exit) => Error::new(
            ErrorKind::GuestEnded,
            format!("the guest ended before it said that it was ready: {exit}"),
        ),
        Err(error) => error,
    }
}
