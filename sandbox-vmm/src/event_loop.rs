//! The thread that serves a VM's host events: readable taps and sockets, timers, what these left over, the deadline.
//!
//! A VM without such events has no such thread. The thread sleeps in `epoll_wait` and is woken by nothing of ours.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use crate::devices::virtio::{HostEvent, Progress};
use crate::machine::SharedDevice;

/// Its stack needs room for a device's handlers, which keep no large buffers on it.
const STACK_SIZE: usize = 256 << 10;

/// What runs when the deadline passes.
pub type OnDeadline = Box<dyn FnMut() + Send>;

/// What an event loop is made for.
pub struct EventSources {
    /// Devices with the descriptors that each wants watched.
    pub devices: Vec<(SharedDevice, Vec<HostEvent>)>,
    /// Time from now to the deadline, and what happens then.
    pub deadline: Option<(Duration, OnDeadline)>,
}

/// A running event loop.
pub struct EventLoop {
    thread: JoinHandle<()>,
    agenda: Arc<Agenda>,
}

/// What the loop is told beside its descriptors.
struct Agenda {
    /// It is to end.
    stop: AtomicBool,
    /// Events of which more work was left than one call does; each is gone on with after a look at the descriptors, so
    /// that one device keeps the others waiting for one call only.
    unfinished: Mutex<Vec<(SharedDevice, u32)>>,
    /// Written after any change of the above.
    wake: EventFd,
}

impl Agenda {
    fn new() -> io::Result<Self> {
        Ok(Self {
            stop: AtomicBool::new(false),
            unfinished: Mutex::default(),
            wake: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
        })
    }

    /// Tells a device of an event.
    fn serve(&self, device: &SharedDevice, token: u32) {
        if device.tell(token) == Progress::More {
            self.unfinished().push((Arc::clone(device), token));
            self.wake();
        }
    }

    fn serve_unfinished(&self) {
        let unfinished = std::mem::take(&mut *self.unfinished());
        for (device, token) in unfinished {
            self.serve(&device, token);
        }
    }

    fn wake(&self) {
        // It is watched for edges, which every write gives. One that is full is readable all the same.
        let _ = self.wake.write(1);
    }

    fn unfinished(&self) -> MutexGuard<'_, Vec<(SharedDevice, u32)>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Subscriber = Box<dyn MutEventSubscriber + Send>;

impl EventLoop {
    /// Starts a thread for `sources`, or none if there is nothing to watch. The thread does `first` first.
    pub fn spawn(sources: EventSources, first: impl FnOnce() + Send + 'static) -> io::Result<Option<Self>> {
        let watched = sources.devices.iter().any(|(_, events)| !events.is_empty());
        if !watched && sources.deadline.is_none() {
            return Ok(None);
        }
        let agenda = Arc::new(Agenda::new()?);
        let mut manager = EventManager::<Subscriber>::new().map_err(io::Error::other)?;
        manager.add_subscriber(Box::new(AgendaSubscriber(Arc::clone(&agenda))));
        for (device, events) in sources.devices {
            if !events.is_empty() {
                manager.add_subscriber(Box::new(DeviceSubscriber {
                    device,
                    events,
                    agenda: Arc::clone(&agenda),
                }));
            }
        }
        if let Some((after, action)) = sources.deadline {
            let mut timer = TimerFd::new()?;
            timer.reset(after, None)?;
            manager.add_subscriber(Box::new(DeadlineSubscriber { timer, action }));
        }
        let followed = Arc::clone(&agenda);
        let thread = thread::Builder::new()
            .name("sandbox-events".to_owned())
            .stack_size(STACK_SIZE)
            .spawn(move || {
                first();
                serve(manager, &followed);
            })?;
        Ok(Some(Self { thread, agenda }))
    }

    /// Stops the thread and waits for its end.
    pub fn stop(self) {
        self.agenda.stop.store(true, Ordering::Release);
        self.agenda.wake();
        if self.thread.join().is_err() {
            tracing::error!("the event loop panicked");
        }
    }
}

fn serve(mut manager: EventManager<Subscriber>, agenda: &Agenda) {
    while !agenda.stop.load(Ordering::Acquire) {
        if let Err(error) = manager.run() {
            tracing::error!(%error, "the event loop ends");
            return;
        }
    }
}

/// Adds a descriptor to the loop's epoll set. It fails only when the host is out of memory for it; the device then goes
/// without its host events, which is said once.
fn watch(ops: &mut EventOps, fd: RawFd, token: u32, set: EventSet) {
    if let Err(error) = ops.add(Events::with_data_raw(fd, token, set)) {
        tracing::error!(?error, fd, "descriptor not watched");
    }
}

struct AgendaSubscriber(Arc<Agenda>);

impl MutEventSubscriber for AgendaSubscriber {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.0.serve_unfinished();
    }

    fn init(&mut self, ops: &mut EventOps) {
        watch(ops, self.0.wake.as_raw_fd(), 0, EventSet::IN | EventSet::EDGE_TRIGGERED);
    }
}

struct DeviceSubscriber {
    device: SharedDevice,
    events: Vec<HostEvent>,
    agenda: Arc<Agenda>,
}

impl MutEventSubscriber for DeviceSubscriber {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        self.agenda.serve(&self.device, events.data());
    }

    fn init(&mut self, ops: &mut EventOps) {
        for event in &self.events {
            watch(ops, event.fd, event.token, EventSet::IN | EventSet::EDGE_TRIGGERED);
        }
    }
}

struct DeadlineSubscriber {
    timer: TimerFd,
    action: OnDeadline,
}

impl MutEventSubscriber for DeadlineSubscriber {
    fn process(&mut self, _events: Events, ops: &mut EventOps) {
        // It fires once; nothing is left to be read after this.
        if let Err(error) = ops.remove(Events::new_raw(self.timer.as_raw_fd(), EventSet::IN)) {
            tracing::debug!(?error, "deadline timer");
        }
        (self.action)();
    }

    fn init(&mut self, ops: &mut EventOps) {
        watch(ops, self.timer.as_raw_fd(), 0, EventSet::IN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::Shared;
    use crate::devices::virtio::test_support::EventCounter;
    use std::sync::mpsc;

    #[test]
    fn nothing_to_watch_needs_no_thread() {
        let sources = EventSources {
            devices: Vec::new(),
            deadline: None,
        };
        assert!(EventLoop::spawn(sources, || ()).unwrap().is_none());
    }

    #[test]
    fn what_a_call_left_over_is_gone_on_with() {
        const CALLS: usize = 1000;
        let fd = EventFd::new(EFD_CLOEXEC).unwrap();
        fd.write(1).unwrap();
        let event = HostEvent {
            fd: fd.as_raw_fd(),
            token: 7,
        };
        let device = Arc::new(Shared::new(EventCounter::new(CALLS)));
        let sources = EventSources {
            devices: vec![(device.clone(), vec![event])],
            deadline: None,
        };
        let event_loop = EventLoop::spawn(sources, || ()).unwrap().unwrap();
        while device.lock().events.len() < CALLS {
            thread::yield_now();
        }
        event_loop.stop();
        assert_eq!(device.lock().events, [7; CALLS], "called again with nothing left");
    }

    #[test]
    fn the_deadline_fires_once_and_the_loop_stops_when_told() {
        let (sender, receiver) = mpsc::channel();
        let action: OnDeadline = Box::new(move || sender.send(()).unwrap());
        let sources = EventSources {
            devices: Vec::new(),
            deadline: Some((Duration::from_millis(1), action)),
        };
        let event_loop = EventLoop::spawn(sources, || ()).unwrap().unwrap();
        receiver.recv().unwrap();
        event_loop.stop();
        assert!(receiver.recv().is_err(), "fired a second time");
    }
}
