//! Instances that say themselves that they are ready, by a POST to the platform.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who is waited for, by address: an instance is known by where its POST comes from, which it cannot choose.
#[derive(Clone, Debug, Default)]
pub struct ReadyBoard {
    awaited: Arc<Mutex<HashMap<IpAddr, SyncSender<()>>>>,
}

/// A wait for one instance; dropping it ends the wait.
pub(super) struct Awaited<'a> {
    board: &'a ReadyBoard,
    address: IpAddr,
    pub(super) ready: Receiver<()>,
}

impl ReadyBoard {
    /// The instance at `address` says that it is ready. False if nobody waits for it.
    pub fn announce(&self, address: IpAddr) -> bool {
        let awaited = self.lock();
        let Some(sender) = awaited.get(&address) else {
            return false;
        };
        // A second announcement finds the first one unread, and adds nothing to it.
        let _ = sender.try_send(());
        true
    }

    pub(super) fn await_instance(&self, address: IpAddr) -> Awaited<'_> {
        let (sender, ready) = sync_channel(1);
        self.lock().insert(address, sender);
        Awaited {
            board: self,
            address,
            ready,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, SyncSender<()>>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.board.lock().remove(&self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_awaited_is_heard() {
        let board = ReadyBoard::default();
        let (one, other) = ("10.0.0.2".parse().unwrap(), "10.0.0.3".parse().unwrap());
        let awaited = board.await_instance(one);
        assert!(!board.announce(other));
        assert!(board.announce(one));
        assert!(board.announce(one));
        awaited.ready.recv().unwrap();
        drop(awaited);
        assert!(!board.announce(one));
    }
}
