//! Instances that say themselves that they are ready, by a POST to the platform.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sandbox::ConsoleLog;
use sandbox::listeners::Listener;

/// Who is waited for, by address: an instance is known by where its POST comes from, which it cannot choose.
#[derive(Clone, Debug, Default)]
pub struct ReadyBoard {
    awaited: Arc<Mutex<HashMap<IpAddr, SyncSender<News>>>>,
}

/// What is heard of an instance that is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It says that it is ready.
    Ready,
    /// Its guest has ended.
    Ended,
}

/// A wait for one instance; dropping it ends the wait.
pub(super) struct Awaited<'a> {
    board: &'a ReadyBoard,
    address: IpAddr,
    pub(super) news: Receiver<News>,
    /// Called by the console for as long as it exists.
    _end: Arc<Listener>,
}

impl ReadyBoard {
    /// The instance at `address` says that it is ready. False if nobody waits for it.
    pub fn announce(&self, address: IpAddr) -> bool {
        let awaited = self.lock();
        let Some(sender) = awaited.get(&address) else {
            return false;
        };
        // A second announcement finds the first one unread, and adds nothing to it.
        let _ = sender.try_send(News::Ready);
        true
    }

    /// Waits for the instance at `address`, whose console closes when its guest ends. To be called before the start.
    pub(super) fn await_instance(&self, address: IpAddr, console: &Arc<ConsoleLog>) -> Awaited<'_> {
        let (sender, news) = sync_channel(1);
        self.lock().insert(address, sender.clone());
        let log: Weak<ConsoleLog> = Arc::downgrade(console);
        let end: Arc<Listener> = Arc::new(move || {
            if log.upgrade().is_some_and(|console| console.is_closed()) {
                // What was heard first counts.
                let _ = sender.try_send(News::Ended);
            }
        });
        console.listen(Arc::downgrade(&end));
        Awaited {
            board: self,
            address,
            news,
            _end: end,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, SyncSender<News>>> {
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

    fn console() -> Arc<ConsoleLog> {
        Arc::new(ConsoleLog::new(100))
    }

    #[test]
    fn only_who_is_awaited_is_heard() {
        let board = ReadyBoard::default();
        let (one, other) = ("10.0.0.2".parse().unwrap(), "10.0.0.3".parse().unwrap());
        let awaited = board.await_instance(one, &console());
        assert!(!board.announce(other));
        assert!(board.announce(one));
        assert!(board.announce(one));
        assert_eq!(awaited.news.recv().unwrap(), News::Ready);
        drop(awaited);
        assert!(!board.announce(one));
    }

    #[test]
    fn the_end_of_a_guest_is_heard_and_its_output_is_not() {
        let (board, console) = (ReadyBoard::default(), console());
        let awaited = board.await_instance("10.0.0.2".parse().unwrap(), &console);
        console.append(b"booting");
        assert!(awaited.news.try_recv().is_err());
        console.close();
        assert_eq!(awaited.news.recv().unwrap(), News::Ended);
    }
}
