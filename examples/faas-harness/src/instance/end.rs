//! The end of an instance's guest, as something that can be awaited.

use std::future::Future;
use std::sync::{Arc, Weak};

use sandbox::ConsoleLog;
use sandbox::listeners::Listener;
use tokio::sync::Notify;

/// Knows of the end of one guest, whose console closes then.
pub(super) struct End {
    console: Arc<ConsoleLog>,
    changed: Arc<Notify>,
    /// Called by the console for as long as it exists.
    _listener: Arc<Listener>,
}

impl End {
    pub(super) fn of(console: Arc<ConsoleLog>) -> Self {
        let changed = Arc::new(Notify::new());
        let (log, waiters): (Weak<ConsoleLog>, _) = (Arc::downgrade(&console), Arc::clone(&changed));
        let listener: Arc<Listener> = Arc::new(move || {
            if log.upgrade().is_some_and(|console| console.is_closed()) {
                waiters.notify_waiters();
            }
        });
        console.listen(Arc::downgrade(&listener));
        Self {
            console,
            changed,
            _listener: listener,
        }
    }

    /// Is over when the guest has ended. To be awaited while this exists.
    pub(super) fn reached(&self) -> impl Future<Output = ()> + Send + Sync + 'static {
        let (console, changed) = (Arc::clone(&self.console), Arc::clone(&self.changed));
        async move {
            loop {
                let next = changed.notified();
                if console.is_closed() {
                    return;
                }
                next.await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_reached_when_the_console_closes_whenever_that_is_asked() {
        let console = Arc::new(ConsoleLog::new(100));
        let end = End::of(Arc::clone(&console));
        let waiting = tokio::spawn(end.reached());
        console.append(b"alive");
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        console.close();
        waiting.await.unwrap();
        end.reached().await;
    }
}
