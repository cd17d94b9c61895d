//! The descriptors of a device whose sockets come and go, behind the one that the event loop watches.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::ANY_PORT;
use super::packet::Ports;

/// Events fetched at a time.
const EVENTS_PER_WAIT: usize = 32;

/// How sockets are watched. An edge costs no further system call to be armed again.
const WATCHED: EventSet = EventSet::IN
    .union(EventSet::READ_HANG_UP)
    .union(EventSet::EDGE_TRIGGERED);

/// Whose descriptor it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A connection's socket.
    Connection(Ports),
    /// A client that has not said where it wants to go.
    Greeting(RawFd),
    /// The device's own end of the identity port's connection.
    Identity,
    /// The socket that clients connect to.
    Listener,
}

/// No connection has [`ANY_PORT`] for a host port, which makes room for the others.
impl Source {
    const LISTENER: u64 = u64::MAX;
    const IDENTITY: u64 = u64::MAX - 1;

    fn to_data(self) -> u64 {
        match self {
            Self::Connection(ports) => u64::from(ports.host) << 32 | u64::from(ports.guest),
            // A descriptor is a number below 2^31.
            Self::Greeting(fd) => u64::from(ANY_PORT) << 32 | fd as u64,
            Self::Listener => Self::LISTENER,
            Self::Identity => Self::IDENTITY,
        }
    }

    fn from_data(data: u64) -> Self {
        let (host, guest) = ((data >> 32) as u32, data as u32);
        match data {
            Self::LISTENER => Self::Listener,
            Self::IDENTITY => Self::Identity,
            _ if host == ANY_PORT => Self::Greeting(guest as RawFd),
            _ => Self::Connection(Ports { guest, host }),
        }
    }
}

/// An epoll set, which the event loop watches in turn.
pub(super) struct Watcher {
    epoll: Epoll,
}

impl Watcher {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()? })
    }

    /// The descriptor that becomes readable when any other has news.
    pub(super) fn event_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Watches a descriptor until it is closed.
    pub(super) fn add(&self, fd: RawFd, source: Source) -> io::Result<()> {
        self.control(ControlOperation::Add, fd, source, WATCHED)
    }

    /// Watches one that is watched already on behalf of `source` from now on; for room to write only if that is wanted:
    /// a host program that reads would otherwise wake the device each time.
    pub(super) fn modify(&self, fd: RawFd, source: Source, for_room: bool) -> io::Result<()> {
        let events = match for_room {
            true => WATCHED | EventSet::OUT,
            false => WATCHED,
        };
        self.control(ControlOperation::Modify, fd, source, events)
    }

    fn control(&self, operation: ControlOperation, fd: RawFd, source: Source, events: EventSet) -> io::Result<()> {
        self.epoll.ctl(operation, fd, EpollEvent::new(events, source.to_data()))
    }

    /// Some of the news there are; empty when there are no more.
    pub(super) fn news(&self) -> impl Iterator<Item = (Source, EventSet)> + use<> {
        let mut events = [EpollEvent::default(); EVENTS_PER_WAIT];
        let count = loop {
            match self.epoll.wait(0, &mut events) {
                Ok(count) => break count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "news of the vsock's sockets not fetched");
                    break 0;
                }
            }
        };
        let events = events.into_iter().take(count);
        events.map(|event| (Source::from_data(event.data()), event.event_set()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_the_way_through_the_kernel() {
        let last = u32::MAX - 1;
        let sources = [
            Source::Connection(Ports { guest: 0, host: 0 }),
            Source::Connection(Ports {
                guest: last,
                host: last,
            }),
            Source::Connection(Ports { guest: 7, host: 9 }),
            Source::Greeting(0),
            Source::Greeting(RawFd::MAX),
            Source::Listener,
            Source::Identity,
        ];
        for source in sources {
            assert_eq!(Source::from_data(source.to_data()), source);
        }
    }
}
