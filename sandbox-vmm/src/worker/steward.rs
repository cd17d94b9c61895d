//! The embedder's thread for all workers of a backend: starts them, listens to them, reaps them.
//!
//! It starts them itself because a process's parent is, to the kernel, a thread: workers end when the thread that
//! started them does.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::link::{Heard, Link};
use super::protocol::channel::PACKET;

/// Its stack holds no large buffers; a worker's way to its program has a stack of its own.
const STACK_SIZE: usize = 256 << 10;
/// Events fetched at a time.
const EVENTS_PER_WAIT: usize = 64;
/// Reports taken from one worker before the others have their turn: one that talks without end takes no more than its
/// share.
const REPORTS_PER_TURN: usize = 16;
/// Which of a worker's descriptors has news, in the lowest bits of an event's data.
const CHANNEL: u64 = 0;
const PROCESS: u64 = 1;
const BROKER: u64 = 2;
const KINDS: u64 = 4;
/// The event's data for the steward's own eventfd.
const COMMAND: u64 = u64::MAX;

/// Something to be done on the steward's thread.
type Task = Box<dyn FnOnce(&mut Household) + Send>;

/// The steward's handle. Its thread ends when this is dropped and no worker is left.
pub struct Steward {
    shared: Arc<Shared>,
}

struct Shared {
    tasks: Mutex<Tasks>,
    wake: EventFd,
}

#[derive(Default)]
struct Tasks {
    waiting: Vec<Task>,
    quit: bool,
}

/// What the steward's thread knows.
pub struct Household {
    shared: Arc<Shared>,
    epoll: Epoll,
    workers: HashMap<u64, Arc<Link>>,
    next: u64,
}

impl Steward {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            tasks: Mutex::default(),
            wake: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
        });
        let household = Household {
            shared: Arc::clone(&shared),
            epoll: Epoll::new()?,
            workers: HashMap::new(),
            next: 0,
        };
        household.watch(shared.wake.as_raw_fd(), COMMAND)?;
        thread::Builder::new()
            .name("sandbox-steward".to_owned())
            .stack_size(STACK_SIZE)
            .spawn(move || household.serve())?;
        Ok(Self { shared })
    }

    /// Has `task` done on the steward's thread, soon.
    pub fn ask(&self, task: impl FnOnce(&mut Household) + Send + 'static) {
        let task: Task = Box::new(task);
        self.shared.lock().waiting.push(task);
        self.shared.wake();
    }
}

impl Drop for Steward {
    fn drop(&mut self) {
        self.shared.lock().quit = true;
        self.shared.wake();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // An eventfd that is full is readable all the same.
        let _ = self.wake.write(1);
    }
}

impl Household {
    /// Takes a worker in, to be listened to and reaped.
    pub fn adopt(&mut self, link: Arc<Link>) -> io::Result<()> {
        let base = self.next * KINDS;
        let Some((channel, process)) = link.descriptors() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let watched = self
            .watch(process, base + PROCESS)
            .and_then(|()| self.watch(channel, base + CHANNEL));
        if let Err(error) = watched {
            self.unwatch(process);
            link.kill();
            return Err(error);
        }
        self.workers.insert(self.next, link);
        self.next += 1;
        Ok(())
    }

    /// Serves the connections of `link`'s guest from now on.
    pub fn watch_broker(&mut self, link: &Arc<Link>) {
        let number = self.workers.iter().find(|(_, worker)| Arc::ptr_eq(worker, link));
        let (Some((number, _)), Some(fd)) = (number, link.broker_fd()) else {
            return;
        };
        if let Err(error) = self.watch(fd, number * KINDS + BROKER) {
            tracing::warn!(%error, "a guest's connections to the host are not served");
        }
    }

    fn serve(mut self) {
        let mut buffer = vec![0; PACKET];
        loop {
            let mut events = [EpollEvent::default(); EVENTS_PER_WAIT];
            let count = match self.epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => {
                    tracing::error!(%error, "the workers' steward ends, and its workers with it");
                    self.workers.values().for_each(|link| link.kill());
                    return;
                }
            };
            for event in &events[..count] {
                match event.data() {
                    COMMAND => self.do_tasks(),
                    data => self.attend(data / KINDS, data % KINDS, &mut buffer),
                }
            }
            if self.workers.is_empty() && self.shared.lock().quit {
                return;
            }
        }
    }

    fn do_tasks(&mut self) {
        // It may be empty already.
        let _ = self.shared.wake.read();
        let tasks = std::mem::take(&mut self.shared.lock().waiting);
        for task in tasks {
            task(self);
        }
    }

    fn attend(&mut self, number: u64, kind: u64, buffer: &mut [u8]) {
        let Some(link) = self.workers.get(&number).cloned() else {
            return;
        };
        match kind {
            CHANNEL => {
                let heard = (0..REPORTS_PER_TURN).map(|_| link.hear(buffer));
                let ended = heard
                    .take_while(|heard| *heard != Heard::Nothing)
                    .any(|heard| heard == Heard::End);
                if let (true, Some((channel, _))) = (ended, link.descriptors()) {
                    self.unwatch(channel);
                }
            }
            PROCESS => {
                if let Some(status) = link.try_reap() {
                    self.bury(number, &link, buffer);
                    link.ended(status);
                }
            }
            _ => {
                let heard = (0..REPORTS_PER_TURN).map(|_| link.broker_connection());
                let ended = heard
                    .take_while(|heard| *heard != Heard::Nothing)
                    .any(|heard| heard == Heard::End);
                if let (true, Some(fd)) = (ended, link.broker_fd()) {
                    self.unwatch(fd);
                }
            }
        }
    }

    /// Takes what a worker said before its end, and forgets it.
    fn bury(&mut self, number: u64, link: &Link, buffer: &mut [u8]) {
        while link.hear(buffer) == Heard::Something {}
        self.workers.remove(&number);
        if let Some((channel, process)) = link.descriptors() {
            self.unwatch(channel);
            self.unwatch(process);
        }
        if let Some(fd) = link.broker_fd() {
            self.unwatch(fd);
        }
    }

    fn watch(&self, fd: RawFd, data: u64) -> io::Result<()> {
        self.epoll
            .ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, data))
    }

    fn unwatch(&self, fd: RawFd) {
        // It may have been taken out before.
        let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }
}
