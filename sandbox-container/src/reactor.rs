//! One thread that waits for everything that happens to a backend's containers: their output, their ends, deadlines.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

/// Nothing here recurses or holds large buffers on the stack.
const STACK_SIZE: usize = 256 << 10;
/// Events taken from the kernel at a time.
const BATCH: usize = 64;
const WAKE: u64 = 0;

/// Whether a source is waited for further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is.
    Keep,
    /// It is done with.
    Remove,
}

/// Something that becomes readable.
pub trait Source: Send + Sync {
    /// What is waited for.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// It is readable, or its other end is closed. Does a bounded amount of work and does not wait: a container that
    /// writes without end must not keep others from being served.
    fn ready(&self) -> Next;
}

/// The thread and what it waits for.
pub struct Reactor {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    epoll: OwnedFd,
    wake: OwnedFd,
    ended: AtomicBool,
    next: AtomicU64,
    sources: Mutex<HashMap<u64, Arc<dyn Source>>>,
}

impl Reactor {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        let inner = Arc::new(Inner {
            epoll,
            wake,
            ended: AtomicBool::new(false),
            next: AtomicU64::new(WAKE + 1),
            sources: Mutex::default(),
        });
        let served = Arc::clone(&inner);
        let thread = thread::Builder::new()
            .name("sandbox-reactor".to_owned())
            .stack_size(STACK_SIZE)
            .spawn(move || served.run())?;
        Ok(Self {
            inner,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Waits for `source` from now on. The number is for [`Reactor::remove`].
    pub fn add(&self, source: Arc<dyn Source>) -> io::Result<u64> {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        // Known before the kernel can report it.
        self.inner.sources().insert(number, Arc::clone(&source));
        let added = epoll::add(
            &self.inner.epoll,
            source.descriptor(),
            EventData::new_u64(number),
            EventFlags::IN,
        );
        if let Err(error) = added {
            self.inner.sources().remove(&number);
            return Err(error.into());
        }
        Ok(number)
    }

    /// Waits for it no more.
    pub fn remove(&self, number: u64) {
        self.inner.remove(number);
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.inner.ended.store(true, Ordering::Release);
        // An eventfd that is full wakes the thread as well.
        let _ = rustix::io::write(&self.inner.wake, &1_u64.to_ne_bytes());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread that serves containers panicked");
        }
    }
}

impl Inner {
    fn run(&self) {
        let mut events = [MaybeUninit::<Event>::uninit(); BATCH];
        while !self.ended.load(Ordering::Acquire) {
            let ready = match epoll::wait(&self.epoll, &mut events[..], None) {
                Ok((ready, _)) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!("cannot wait for containers: {error}");
                    return;
                }
            };
            for event in ready {
                let number = event.data.u64();
                let source = self.sources().get(&number).cloned();
                if let Some(source) = source
                    && source.ready() == Next::Remove
                {
                    self.remove(number);
                }
            }
        }
    }

    fn remove(&self, number: u64) {
        let source = self.sources().remove(&number);
        if let Some(source) = source {
            // What the kernel no longer knows needs no removal.
            let _ = epoll::delete(&self.epoll, source.descriptor().as_fd());
        }
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<u64, Arc<dyn Source>>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
