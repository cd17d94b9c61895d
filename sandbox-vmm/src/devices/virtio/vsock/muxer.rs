//! All connections of a guest, and the host's sockets behind them.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::EventSet;

use super::config::ReadyPort;
use super::connection::Connection;
use super::greeting::{Greeting, read_greeting};
use super::identity::{IDENTITY_PORT, IdentityService};
use super::packet::{self, HEADER_SIZE, Op, Packet, Parsed, Ports};
use super::persist::VsockState;
use super::watcher::{Source, Watcher};
use super::{ANY_PORT, HostSockets, MAX_CONNECTIONS, VsockConfig, VsockError};
use crate::devices::virtio::Progress;
use crate::devices::virtio::persist::Impossible;
use crate::devices::virtio::segments::Segments;
use crate::renewal::Parts;
use crate::renewal::record::RECORD_SIZE;

/// Answers to packets that belong to no connection, waiting for the guest to fetch them. One that sends nonsense and
/// fetches nothing gets no more than these.
pub(super) const MAX_REFUSALS: usize = 256;
/// The ports that stand for host programs in the guest: a range of their own, taken in turn.
const FIRST_HOST_PORT: u32 = 1 << 30;
const LAST_HOST_PORT: u32 = (1 << 31) - 1;

/// How often news are fetched in one call, so that busy host programs do not keep the device's lock.
const FETCHES_PER_CALL: usize = 64;

struct Entry {
    connection: Connection,
    /// It stands in the queue of those with something for the guest.
    queued: bool,
    /// Its socket is watched for room, too.
    watches_room: bool,
}

/// The connections, by their ports.
pub(super) struct Muxer {
    guest_cid: u64,
    ready: Option<Ready>,
    identity: IdentityService,
    watcher: Watcher,
    sockets: HostSockets,
    /// There is a driver. Without one clients are left in the listener's queue: those that were accepted would be lost
    /// when it resets the device first thing.
    started: bool,
    /// The listener may have clients.
    clients_waiting: bool,
    greetings: HashMap<RawFd, UnixStream>,
    connections: HashMap<Ports, Entry>,
    /// Those with something for the guest, in turn.
    sendable: VecDeque<Ports>,
    refusals: VecDeque<Ports>,
    next_host_port: u32,
}

/// The ready port, and who is told of it unless that was done.
struct Ready {
    port: u32,
    notify: Option<Box<dyn FnOnce() + Send>>,
}

impl From<ReadyPort> for Ready {
    fn from(ready: ReadyPort) -> Self {
        Self {
            port: ready.port,
            notify: Some(ready.notify),
        }
    }
}

impl Muxer {
    /// Watches the listening socket.
    pub(super) fn new(config: VsockConfig) -> Result<Self, VsockError> {
        let watcher = Watcher::new().map_err(VsockError::Watch)?;
        let listener = &config.sockets.listener;
        let prepared = listener.set_nonblocking(true);
        let watched = prepared.and_then(|()| watcher.add(listener.as_raw_fd(), Source::Listener));
        watched.map_err(VsockError::Watch)?;
        Ok(Self {
            guest_cid: u64::from(config.guest_cid),
            ready: config.ready.map(Ready::from),
            identity: IdentityService::new(config.confirmed),
            watcher,
            sockets: config.sockets,
            started: false,
            clients_waiting: true,
            greetings: HashMap::new(),
            connections: HashMap::new(),
            sendable: VecDeque::new(),
            refusals: VecDeque::new(),
            next_host_port: FIRST_HOST_PORT,
        })
    }

    /// The descriptors of all sockets.
    pub(super) fn watcher(&self) -> &Watcher {
        &self.watcher
    }

    /// A driver is there. Who connected before has been waiting for it.
    pub(super) fn start(&mut self) {
        self.started = true;
        self.accept_clients();
    }

    /// What a device that takes this one's place needs to know.
    pub(super) fn state(&self) -> VsockState {
        let connections = self.connections.keys().chain(&self.refusals);
        VsockState {
            connections: connections.map(|ports| (ports.guest, ports.host)).collect(),
            next_host_port: self.next_host_port,
            identity_parts: self.identity.parts().0,
        }
    }

    /// What a program in the guest is to be told; see [`IdentityService::tell`].
    pub(super) fn tell_identity(&mut self, record: &[u8; RECORD_SIZE]) -> Option<Parts> {
        self.identity.tell(record)
    }

    /// Takes the place of a device that was left in `state`: the guest will be told that its connections are gone.
    pub(super) fn restore(&mut self, state: &VsockState) -> Result<(), Impossible> {
        let possible = (FIRST_HOST_PORT..=LAST_HOST_PORT).contains(&state.next_host_port)
            && state.connections.len() <= MAX_CONNECTIONS + MAX_REFUSALS;
        if !possible {
            return Err(Impossible::SocketPorts);
        }
        self.next_host_port = state.next_host_port;
        let ports = state.connections.iter().map(|&(guest, host)| Ports { guest, host });
        self.refusals = ports.collect();
        self.identity.restore(Parts(state.identity_parts));
        Ok(())
    }

    /// Ends all connections without a word to the guest, whose driver is gone.
    pub(super) fn reset(&mut self) {
        self.started = false;
        self.connections.clear();
        self.greetings.clear();
        self.sendable.clear();
        self.refusals.clear();
        self.identity.reset();
        // Clients that could not be accepted before can be now.
        self.clients_waiting = true;
    }

    /// Whether [`Muxer::next_packet`] may have something.
    pub(super) fn has_packets(&self) -> bool {
        !self.refusals.is_empty() || !self.sendable.is_empty()
    }

    /// The header of the next packet for the guest and the length of its data, which is read into `room`. `None` if
    /// this connection's turn came to nothing; another's may not.
    pub(super) fn next_packet(&mut self, room: &mut Segments) -> Option<([u8; HEADER_SIZE], u32)> {
        let (ports, packet) = match self.refusals.pop_front() {
            Some(ports) => (ports, Packet::RESET),
            None => {
                let ports = self.sendable.pop_front()?;
                let entry = self.connections.get_mut(&ports)?;
                entry.queued = false;
                let packet = entry.connection.next_packet(room);
                self.settle(ports);
                (ports, packet?)
            }
        };
        Some((packet::header(self.guest_cid, ports, packet), packet.len))
    }

    /// Takes a packet from the guest: its header and its data.
    pub(super) fn receive(&mut self, packet: &mut Segments) {
        let mut header = [0; HEADER_SIZE];
        if !packet.read_at(0, &mut header) {
            return;
        }
        packet.advance(HEADER_SIZE);
        match packet::parse(&header, self.guest_cid) {
            Parsed::Misaddressed => {}
            Parsed::Unknown(ports) => self.refuse(ports),
            Parsed::Packet(ports, Packet { len, .. }) if len as usize > packet.bytes() => self.refuse(ports),
            Parsed::Packet(ports, header) => {
                packet.limit(header.len as usize);
                self.dispatch(ports, &header, packet);
            }
        }
    }

    fn dispatch(&mut self, ports: Ports, packet: &Packet, payload: &mut Segments) {
        if let Some(entry) = self.connections.get_mut(&ports) {
            entry.connection.handle_packet(packet, payload);
            self.settle(ports);
            return;
        }
        match packet.op {
            Op::Request => self.connect_to_host(ports, packet),
            // A reset is never answered by a reset.
            Op::Reset => {}
            _ => self.refuse(ports),
        }
    }

    fn refuse(&mut self, ports: Ports) {
        if self.refusals.len() < MAX_REFUSALS {
            self.refusals.push_back(ports);
        }
    }

    /// The guest asks for a connection to a host port.
    fn connect_to_host(&mut self, ports: Ports, request: &Packet) {
        match self.open_host_port(ports) {
            Ok(socket) => self.add(ports, Connection::accepted(ports, socket, request)),
            Err(error) => {
                tracing::debug!(%error, port = ports.host, "guest's connection refused");
                self.refuse(ports);
            }
        }
    }

    fn open_host_port(&mut self, ports: Ports) -> io::Result<UnixStream> {
        if ports.guest == ANY_PORT || ports.host == ANY_PORT || self.is_full() {
            return Err(ErrorKind::QuotaExceeded.into());
        }
        if ports.host == IDENTITY_PORT {
            return self.identity.connect(&self.watcher);
        }
        let Some(ready) = self.ready.as_mut().filter(|ready| ready.port == ports.host) else {
            return self.sockets.connector.connect(ports.host);
        };
        if let Some(notify) = ready.notify.take() {
            notify();
        }
        // A peer that is gone already ends the connection as one that closes at once.
        self.sockets.connector.connect(ports.host).or_else(|_| {
            let (near, _) = UnixStream::pair()?;
            near.set_nonblocking(true)?;
            Ok(near)
        })
    }

    fn is_full(&self) -> bool {
        self.connections.len() + self.greetings.len() >= MAX_CONNECTIONS
    }

    /// Adds a connection, and watches its socket.
    fn add(&mut self, ports: Ports, connection: Connection) {
        let fd = connection.socket().map(AsRawFd::as_raw_fd);
        let watched = fd.map(|fd| self.watcher.add(fd, Source::Connection(ports)));
        if let Some(Err(error)) = watched {
            tracing::debug!(%error, "socket not watched, connection refused");
            return self.refuse(ports);
        }
        let entry = Entry {
            connection,
            queued: false,
            watches_room: false,
        };
        self.connections.insert(ports, entry);
        self.settle(ports);
    }

    /// Draws the consequences of whatever happened to a connection.
    fn settle(&mut self, ports: Ports) {
        let Some(entry) = self.connections.get_mut(&ports) else {
            return;
        };
        if entry.connection.is_finished() {
            if entry.queued {
                self.sendable.retain(|queued| *queued != ports);
            }
            self.connections.remove(&ports);
            // There is room for another.
            self.accept_clients();
            return;
        }
        if entry.connection.wants_to_send() && !entry.queued {
            entry.queued = true;
            self.sendable.push_back(ports);
        }
        let wants_room = entry.connection.wants_room();
        if wants_room != entry.watches_room {
            entry.watches_room = wants_room;
            let fd = entry.connection.socket().map(AsRawFd::as_raw_fd);
            self.watch_room(ports, fd, wants_room);
        }
    }

    fn watch_room(&self, ports: Ports, socket: Option<RawFd>, for_room: bool) {
        let watched = socket.map(|fd| self.watcher.modify(fd, Source::Connection(ports), for_room));
        if let Some(Err(error)) = watched {
            tracing::warn!(%error, "a connection of the guest stalls");
        }
    }

    /// Handles what the host's sockets have announced.
    pub(super) fn handle_events(&mut self) -> Progress {
        for _ in 0..FETCHES_PER_CALL {
            let mut news = self.watcher.news().peekable();
            if news.peek().is_none() {
                return Progress::Waiting;
            }
            for (source, events) in news {
                self.handle_event(source, events);
            }
        }
        Progress::More
    }

    fn handle_event(&mut self, source: Source, events: EventSet) {
        match source {
            Source::Listener => {
                self.clients_waiting = true;
                self.accept_clients();
            }
            Source::Identity => self.identity.receive(),
            Source::Greeting(fd) => self.handle_greeting(fd, events),
            Source::Connection(ports) => {
                if let Some(entry) = self.connections.get_mut(&ports) {
                    entry.connection.handle_event(events);
                    self.settle(ports);
                }
            }
        }
    }

    /// Accepts the clients that wait, as far as there is room. What they say comes as an event.
    fn accept_clients(&mut self) {
        while self.started && self.clients_waiting && !self.is_full() {
            match self.sockets.listener.accept() {
                Ok((client, _)) => {
                    if let Err(error) = self.add_greeting(client) {
                        tracing::debug!(%error, "client of the vsock sent away");
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.clients_waiting = false,
                Err(error) => {
                    // Out of descriptors: tried again when a connection ends.
                    tracing::warn!(%error, "client of the vsock not accepted");
                    return;
                }
            }
        }
    }

    fn add_greeting(&mut self, client: UnixStream) -> io::Result<()> {
        client.set_nonblocking(true)?;
        let fd = client.as_raw_fd();
        self.watcher.add(fd, Source::Greeting(fd))?;
        self.greetings.insert(fd, client);
        Ok(())
    }

    fn handle_greeting(&mut self, fd: RawFd, events: EventSet) {
        let Some(client) = self.greetings.get_mut(&fd) else {
            return;
        };
        let gone = events.intersects(EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR);
        let greeting = match read_greeting(client) {
            Greeting::Waiting if !gone => return,
            greeting => greeting,
        };
        let Some(client) = self.greetings.remove(&fd) else {
            return;
        };
        if let Greeting::Connect(port) = greeting {
            self.connect_to_guest(client, port);
        }
        self.accept_clients();
    }

    /// A host program asks for a connection to a port of the guest.
    fn connect_to_guest(&mut self, client: UnixStream, guest: u32) {
        let ports = Ports {
            guest,
            host: self.free_host_port(guest),
        };
        let connection = Connection::requested(ports, client);
        // The descriptor is watched already, as a greeting.
        let fd = connection.socket().map(AsRawFd::as_raw_fd);
        let entry = Entry {
            connection,
            queued: false,
            watches_room: false,
        };
        self.connections.insert(ports, entry);
        self.watch_room(ports, fd, false);
        self.settle(ports);
    }

    /// A port that makes no pair with `guest` yet. There is one: connections are fewer than ports.
    fn free_host_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_host_port;
            self.next_host_port = match host {
                LAST_HOST_PORT => FIRST_HOST_PORT,
                _ => host + 1,
            };
            if !self.connections.contains_key(&Ports { guest, host }) {
                return host;
            }
        }
    }
}
