//! What happens by itself, in queues that the user drains.
//!
//! A queue holds at most one event of each kind for each sandbox that it watches, so that nothing a guest does makes it
//! grow.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbox::State;
use sandbox::listeners::{Listener, Listeners};

use crate::argument;
use crate::cancel::{sandbox_cancel_t, token};
use crate::entry::{Failure, Outcome, entry};
use crate::error::sandbox_error_t;
use crate::handle::{Kind, Table};
use crate::lifecycle::sandbox_t;
use crate::object::{SANDBOXES, SandboxObject};
use crate::wait::Wait;

/// A queue of events. The caller frees it with `sandbox_events_free`.
pub type sandbox_events_t = u64;

/// Event: the readiness check has passed.
pub const SANDBOX_EVENT_READY: u32 = 1 << 0;
/// Event: the guest has ended; `sandbox_wait` has the exit status at once.
pub const SANDBOX_EVENT_EXIT: u32 = 1 << 1;
/// Event: there is console output, or its end, since the last such event was taken.
pub const SANDBOX_EVENT_CONSOLE: u32 = 1 << 2;
/// Event: the teardown that was asked for is over.
pub const SANDBOX_EVENT_TORN_DOWN: u32 = 1 << 3;

const ALL_EVENTS: u32 = SANDBOX_EVENT_READY | SANDBOX_EVENT_EXIT | SANDBOX_EVENT_CONSOLE | SANDBOX_EVENT_TORN_DOWN;

/// Something that happened.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sandbox_event {
    /// One of `SANDBOX_EVENT_…`.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
    /// The sandbox that it happened to.
    pub sandbox: sandbox_t,
    /// What `sandbox_events_watch` was given.
    pub user_data: u64,
}

/// What a queue's handle names.
struct Queue {
    state: Mutex<QueueState>,
    listeners: Listeners,
    /// An eventfd that is readable while there are events.
    descriptor: OwnedFd,
}

#[derive(Default)]
struct QueueState {
    watches: HashMap<sandbox_t, Watch>,
    /// Sandboxes with pending events, in the order in which they got their first.
    order: VecDeque<sandbox_t>,
}

struct Watch {
    mask: u32,
    user_data: u64,
    pending: u32,
    /// Kept for as long as the watch is, since the sources hold them weakly.
    _listeners: Vec<Arc<Listener>>,
}

static QUEUES: Table<Queue> = Table::new(Kind::Events);

/// All queues, so that those can be told that watch a sandbox whose state changes.
static WATCHED: Mutex<Vec<std::sync::Weak<Queue>>> = Mutex::new(Vec::new());

fn queues() -> Vec<Arc<Queue>> {
    let mut all = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut present = Vec::new();
    all.retain(|queue| queue.upgrade().map(|queue| present.push(queue)).is_some());
    present
}

impl Queue {
    fn new() -> Outcome<Self> {
        // SAFETY: eventfd touches no memory.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            let error = std::io::Error::last_os_error();
            return Err(Failure::exhausted(format!("there is no descriptor to be had: {error}")));
        }
        Ok(Self {
            state: Mutex::default(),
            listeners: Listeners::default(),
            // SAFETY: the kernel has just made it for us.
            descriptor: unsafe { OwnedFd::from_raw_fd(descriptor) },
        })
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watches(&self, sandbox: sandbox_t, kind: u32) -> bool {
        self.lock()
            .watches
            .get(&sandbox)
            .is_some_and(|watch| watch.mask & kind != 0)
    }

    /// Puts an event into the queue, if it is watched for and not there already.
    fn post(&self, sandbox: sandbox_t, kind: u32) {
        let mut state = self.lock();
        let Some(watch) = state.watches.get_mut(&sandbox) else {
            return;
        };
        if watch.mask & kind == 0 || watch.pending & kind != 0 {
            return;
        }
        let first = watch.pending == 0;
        watch.pending |= kind;
        if first {
            state.order.push_back(sandbox);
            self.show(state.order.len() == 1);
        }
        drop(state);
        self.listeners.tell();
    }

    /// Makes the descriptor readable, when there was no event before.
    fn show(&self, was_empty: bool) {
        if was_empty {
            let one = 1u64;
            // SAFETY: one 64-bit number is read from this function's own; the descriptor does not block.
            unsafe { libc::write(self.descriptor.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    /// Makes the descriptor unreadable, when there is no event any more.
    fn hide(&self, state: &QueueState) {
        if state.order.is_empty() {
            let mut count = 0u64;
            // SAFETY: one 64-bit number is written to this function's own; the descriptor does not block.
            unsafe { libc::read(self.descriptor.as_raw_fd(), (&raw mut count).cast(), 8) };
        }
    }

    /// Takes the next event.
    fn take(&self) -> Option<sandbox_event> {
        let mut state = self.lock();
        let sandbox = *state.order.front()?;
        let watch = state.watches.get_mut(&sandbox)?;
        let kind = 1 << watch.pending.trailing_zeros();
        watch.pending &= !kind;
        let event = sandbox_event {
            kind,
            reserved: 0,
            sandbox,
            user_data: watch.user_data,
        };
        // One sandbox does not keep the others waiting.
        let more = watch.pending != 0;
        state.order.pop_front();
        if more {
            state.order.push_back(sandbox);
        }
        self.hide(&state);
        Some(event)
    }

    fn forget(&self, sandbox: sandbox_t) -> bool {
        let mut state = self.lock();
        let watch = state.watches.remove(&sandbox);
        if state.order.contains(&sandbox) {
            state.order.retain(|other| *other != sandbox);
            self.hide(&state);
        }
        drop(state);
        watch.is_some()
    }
}

/// The sandbox was started, or goes on: readiness can be awaited for those who watch for it.
pub fn started(object: &SandboxObject) -> Outcome<()> {
    match object.wanted.has(SANDBOX_EVENT_READY) {
        true => object.await_ready(),
        false => Ok(()),
    }
}

/// The sandbox's teardown was asked for.
pub fn torn_down(object: &SandboxObject) -> Outcome<()> {
    match object.wanted.has(SANDBOX_EVENT_TORN_DOWN) {
        true => object.await_torn_down(),
        false => Ok(()),
    }
}

/// The sandbox's handle has ended: its events go with it.
pub fn freed(sandbox: sandbox_t) {
    for queue in queues() {
        queue.forget(sandbox);
    }
}

/// Makes an event queue.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_events_open(events: *mut sandbox_events_t, error: *mut sandbox_error_t) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(events, "events")?;
            let queue = Arc::new(Queue::new()?);
            let known = Arc::downgrade(&queue);
            *place = QUEUES.insert_shared(queue)?;
            WATCHED.lock().unwrap_or_else(PoisonError::into_inner).push(known);
            Ok(())
        })
    }
}

/// A descriptor that is readable while there are events: for poll, select and epoll, not to be read. It belongs to the
/// queue and lives until that is freed.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_events_descriptor(
    events: sandbox_events_t,
    descriptor: *mut i32,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(descriptor, "descriptor")?;
            *place = QUEUES.with(events, |queue| Ok(queue.descriptor.as_raw_fd()))?;
            Ok(())
        })
    }
}

/// Has events of `sandbox` put into the queue from now on, `mask` being a sum of `SANDBOX_EVENT_…`. What has happened
/// already is told at once. `user_data` comes back with each event. Watching again replaces `mask` and `user_data`.
///
/// Watching for ready, for exit and for the end of the teardown has the library wait on a thread of its own each.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_events_watch(
    events: sandbox_events_t,
    sandbox: sandbox_t,
    mask: u32,
    user_data: u64,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            if mask == 0 || mask & !ALL_EVENTS != 0 {
                return Err(Failure::invalid_argument(
                    "mask",
                    format!("is {mask:#x}, which is no sum of events"),
                ));
            }
            QUEUES.with(events, |queue| {
                SANDBOXES.with(sandbox, |object| watch(queue, sandbox, object, (mask, user_data)))
            })
        })
    }
}

fn watch(queue: &Arc<Queue>, sandbox: sandbox_t, object: &SandboxObject, (mask, user_data): (u32, u64)) -> Outcome<()> {
    let poster = |kind| -> Arc<Listener> {
        let queue = Arc::downgrade(queue);
        Arc::new(move || {
            if let Some(queue) = queue.upgrade() {
                queue.post(sandbox, kind);
            }
        })
    };
    let mut listeners = Vec::new();
    let mut listen = |kind, add: &dyn Fn(std::sync::Weak<Listener>)| {
        if mask & kind != 0 {
            let listener = poster(kind);
            add(Arc::downgrade(&listener));
            listeners.push(listener);
        }
    };
    let ready_poster = ready_poster(queue, sandbox, object);
    listen(SANDBOX_EVENT_EXIT, &|listener| object.exit.listen(listener));
    listen(SANDBOX_EVENT_TORN_DOWN, &|listener| object.torn_down.listen(listener));
    let console = object.sandbox.console();
    listen(SANDBOX_EVENT_CONSOLE, &|listener| console.listen(listener));
    if mask & SANDBOX_EVENT_READY != 0 {
        object.ready.listen(Arc::downgrade(&ready_poster));
        listeners.push(ready_poster);
    }
    queue.forget(sandbox);
    queue.lock().watches.insert(
        sandbox,
        Watch {
            mask,
            user_data,
            pending: 0,
            _listeners: listeners,
        },
    );
    begin(queue, sandbox, object, mask)
}

/// Guests that end before they are ready give no ready event.
fn ready_poster(queue: &Arc<Queue>, sandbox: sandbox_t, object: &SandboxObject) -> Arc<Listener> {
    let (queue, ready) = (Arc::downgrade(queue), Arc::downgrade(&object.ready));
    Arc::new(move || {
        let is_ready = ready
            .upgrade()
            .is_some_and(|ready| matches!(ready.outcome(), Some(Ok(()))));
        if let (true, Some(queue)) = (is_ready, queue.upgrade()) {
            queue.post(sandbox, SANDBOX_EVENT_READY);
        }
    })
}

/// Begins to await what is watched for, and tells what has happened already.
fn begin(queue: &Queue, sandbox: sandbox_t, object: &SandboxObject, mask: u32) -> Outcome<()> {
    object.wanted.add(mask);
    let state = object.sandbox.state();
    if mask & SANDBOX_EVENT_EXIT != 0 {
        object.await_exit()?;
    }
    if mask & SANDBOX_EVENT_READY != 0 && matches!(state, State::Running | State::Paused) {
        object.await_ready()?;
    }
    if mask & SANDBOX_EVENT_TORN_DOWN != 0 && state == State::TornDown {
        object.await_torn_down()?;
    }
    let output = object.sandbox.console().read_from(0);
    for (kind, happened) in [
        (SANDBOX_EVENT_EXIT, object.exit.outcome().is_some()),
        (SANDBOX_EVENT_READY, matches!(object.ready.outcome(), Some(Ok(())))),
        (SANDBOX_EVENT_TORN_DOWN, object.torn_down.outcome().is_some()),
        (SANDBOX_EVENT_CONSOLE, output.closed || output.end() > 0),
    ] {
        if happened && queue.watches(sandbox, kind) {
            queue.post(sandbox, kind);
        }
    }
    Ok(())
}

/// Has no further events of `sandbox` put into the queue, and takes out those that are there.
///
/// Thread-safety: any thread, any time. Does not block. Fails with `SANDBOX_ERROR_INVALID_ARGUMENT` if the sandbox is
/// not watched.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_events_unwatch(
    events: sandbox_events_t,
    sandbox: sandbox_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            QUEUES.with(events, |queue| match queue.forget(sandbox) {
                true => Ok(()),
                false => Err(Failure::invalid_argument("sandbox", "is not watched by this queue")),
            })
        })
    }
}

/// Takes the next event, waiting up to `timeout_ms` for it.
///
/// Thread-safety: any thread, any time. Blocks up to `timeout_ms`. Fails with `SANDBOX_ERROR_TIMEOUT`,
/// `SANDBOX_ERROR_CANCELLED`.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_events_next(
    events: sandbox_events_t,
    timeout_ms: i64,
    cancel: sandbox_cancel_t,
    event: *mut sandbox_event,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(event, "event")?;
            let cancel = token(cancel)?;
            let wait = Wait {
                what: "an event",
                timeout: argument::timeout(timeout_ms),
                cancel: cancel.as_deref(),
            };
            *place = QUEUES.with(events, |queue| {
                wait.until(|listener| queue.listeners.add(listener), || queue.take())
            })?;
            Ok(())
        })
    }
}

/// Frees an event queue, and closes its descriptor. 0 is allowed and does nothing.
///
/// Thread-safety: any thread, any time. Does not block. Fails with `SANDBOX_ERROR_INVALID_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_events_free(events: sandbox_events_t) -> i32 {
    // SAFETY: null is allowed.
    unsafe {
        entry(ptr::null_mut(), || match events {
            0 => Ok(()),
            _ => {
                drop(QUEUES.remove(events)?);
                // Forgets those that are gone.
                drop(queues());
                Ok(())
            }
        })
    }
}
