//! One connection between a port of the guest and a Unix socket of the host.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::EventSet;

use super::backlog::Backlog;
use super::credit::{ReceiveWindow, SendCredit};
use super::packet::{Op, Packet, Ports, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::{MAX_PAYLOAD, unix};
use crate::devices::virtio::segments::Segments;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The guest asked for it, and the host accepted; the guest does not know yet.
    Accepting,
    /// A host program asked for it; the guest does not know yet.
    Requesting,
    /// The guest was asked and has not answered.
    Requested,
    /// Data may go both ways.
    Established,
    /// It is to be ended by a reset.
    Resetting,
    /// Neither side knows it any more.
    Finished,
}

/// A connection.
///
/// The socket is watched edge-triggered: what the last edge said stands in `readable` until a read finds the socket
/// empty.
pub(super) struct Connection {
    ports: Ports,
    state: State,
    /// `None` once nothing can go either way.
    socket: Option<UnixStream>,
    credit: SendCredit,
    window: ReceiveWindow,
    /// What the socket has not taken yet.
    backlog: Backlog,
    /// The socket may have data, or its end.
    readable: bool,
    /// The socket's end is near: a read that leaves nothing behind is not the last.
    ending: bool,
    /// `SHUTDOWN_*` that the guest sent.
    guest_shutdown: u32,
    /// `SHUTDOWN_*` that hold for the host program.
    host_shutdown: u32,
    /// Those of them that the guest knows.
    told_shutdown: u32,
}

impl Connection {
    /// A connection that the guest asked for by `request`, and the host program behind `socket` accepted.
    pub(super) fn accepted(ports: Ports, socket: UnixStream, request: &Packet) -> Self {
        let mut connection = Self::new(ports, socket, State::Accepting);
        connection.credit.update(request);
        connection
    }

    /// A connection that the host program behind `socket` asks for.
    pub(super) fn requested(ports: Ports, socket: UnixStream) -> Self {
        Self::new(ports, socket, State::Requesting)
    }

    fn new(ports: Ports, socket: UnixStream, state: State) -> Self {
        Self {
            ports,
            state,
            socket: Some(socket),
            credit: SendCredit::default(),
            window: ReceiveWindow::default(),
            backlog: Backlog::default(),
            readable: true,
            ending: false,
            guest_shutdown: 0,
            host_shutdown: 0,
            told_shutdown: 0,
        }
    }

    /// The socket, while there is one.
    pub(super) fn socket(&self) -> Option<&UnixStream> {
        self.socket.as_ref()
    }

    /// True when it can be forgotten.
    pub(super) fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Whether the socket is to be watched for room, too.
    pub(super) fn wants_room(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Whether [`Connection::next_packet`] has something for the guest.
    pub(super) fn wants_to_send(&self) -> bool {
        match self.state {
            State::Accepting | State::Requesting | State::Resetting => true,
            State::Requested | State::Finished => false,
            State::Established => {
                self.window.wants_update()
                    || self.host_shutdown != self.told_shutdown
                    || self.may_read() && (self.credit.available() > 0 || self.credit.wants_request())
            }
        }
    }

    /// Whether the socket may have something that the guest would take if it had room.
    fn may_read(&self) -> bool {
        let over = (self.host_shutdown & SHUTDOWN_SEND) | (self.guest_shutdown & SHUTDOWN_RECEIVE);
        self.readable && over == 0
    }

    /// The next packet for the guest, its data read into `room`, which is cut to fit.
    pub(super) fn next_packet(&mut self, room: &mut Segments) -> Option<Packet> {
        let packet = match self.state {
            State::Requested | State::Finished => None,
            State::Accepting => {
                self.state = State::Established;
                Some(plain(Op::Response))
            }
            State::Requesting => {
                self.state = State::Requested;
                Some(plain(Op::Request))
            }
            State::Resetting => self.reset_packet(),
            State::Established => self.next_of_established(room),
        };
        packet.map(|packet| self.window.announce(packet))
    }

    fn reset_packet(&mut self) -> Option<Packet> {
        self.state = State::Finished;
        Some(Packet::RESET)
    }

    fn next_of_established(&mut self, room: &mut Segments) -> Option<Packet> {
        // Data first: it tells the window in passing.
        if let Some(packet) = self.read_data(room) {
            return Some(packet);
        }
        if self.state == State::Resetting {
            return self.reset_packet();
        }
        if self.host_shutdown != self.told_shutdown {
            self.told_shutdown = self.host_shutdown;
            return Some(Packet {
                flags: self.host_shutdown,
                ..plain(Op::Shutdown)
            });
        }
        if self.window.wants_update() {
            return Some(plain(Op::CreditUpdate));
        }
        if self.may_read() && self.credit.wants_request() {
            self.credit.requested();
            return Some(plain(Op::CreditRequest));
        }
        None
    }

    fn read_data(&mut self, room: &mut Segments) -> Option<Packet> {
        let socket = self.socket.as_ref().filter(|_| self.may_read())?;
        room.limit(MAX_PAYLOAD.min(self.credit.available() as usize));
        let size = room.bytes();
        if size == 0 {
            return None;
        }
        loop {
            match room.read_from(socket.as_fd()) {
                Ok(0) => {
                    let gone = unix::is_hung_up(socket.as_fd());
                    self.host_shutdown |= SHUTDOWN_SEND;
                    // Else told as one direction now and as both when the edge comes: a server that closes would look
                    // as if it still listened.
                    match gone {
                        true => self.stop_receiving(),
                        false => self.close_if_done(),
                    }
                    return None;
                }
                Ok(length) => {
                    // A stream that gives less than it was asked for is empty (epoll(7)).
                    self.readable = length == size || self.ending;
                    // Fits, being at most the credit.
                    let len = length as u32;
                    self.credit.spend(len);
                    return Some(Packet { len, ..plain(Op::Data) });
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return None;
                }
                Err(_) => {
                    self.fail();
                    return None;
                }
            }
        }
    }

    /// Takes a packet from the guest, with `payload`, the data in it.
    pub(super) fn handle_packet(&mut self, packet: &Packet, payload: &mut Segments) {
        self.credit.update(packet);
        match (self.state, packet.op) {
            (_, Op::Reset) => {
                self.state = State::Finished;
                self.drop_socket();
            }
            (State::Resetting | State::Finished, _) => {}
            (State::Requested, Op::Response) => self.establish(),
            (State::Established, Op::Data) => self.forward(payload),
            (State::Established, Op::Shutdown) => self.shut_down_by_guest(packet.flags),
            (State::Established, Op::CreditUpdate) => {}
            (State::Established, Op::CreditRequest) => self.window.asked(),
            // What cannot come now; a second request for the same ports among it.
            _ => self.fail(),
        }
    }

    /// Tells the host program that the guest accepted.
    fn establish(&mut self) {
        let answer = format!("OK {}\n", self.ports.host);
        let sent = self
            .socket
            .as_ref()
            .map(|socket| unix::send(socket.as_fd(), answer.as_bytes()));
        match sent {
            Some(Ok(length)) if length == answer.len() => self.state = State::Established,
            _ => self.fail(),
        }
    }

    /// Sends the guest's data to the host program, or keeps it until there is room.
    fn forward(&mut self, payload: &mut Segments) {
        // Fits: a payload is as long as its header says in 32 bits.
        let length = payload.bytes() as u32;
        if self.guest_shutdown & SHUTDOWN_SEND != 0 || !self.window.receive(length) {
            return self.fail();
        }
        if let Some(socket) = self.socket.as_ref().filter(|_| self.backlog.is_empty()) {
            match payload.send_to(socket.as_fd()) {
                Ok(sent) => {
                    self.window.forward(sent);
                    payload.advance(sent);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => self.stop_receiving(),
            }
        }
        if self.host_shutdown & SHUTDOWN_RECEIVE != 0 {
            self.window.forward(payload.bytes());
        } else if payload.bytes() > 0 {
            self.backlog.push(payload);
        }
    }

    fn shut_down_by_guest(&mut self, flags: u32) {
        self.guest_shutdown |= flags & SHUTDOWN_BOTH;
        if self.guest_shutdown & SHUTDOWN_RECEIVE != 0 {
            self.shut_down_socket(Shutdown::Read);
        }
        self.finish_sending();
    }

    /// Ends the direction to the host program if the guest has, and all that it sent is there.
    fn finish_sending(&mut self) {
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && self.backlog.is_empty() {
            self.shut_down_socket(Shutdown::Write);
        }
        self.close_if_done();
    }

    fn shut_down_socket(&self, how: Shutdown) {
        // It fails only when the peer is gone, and then there is nothing to end.
        let _ = self.socket.as_ref().map(|socket| socket.shutdown(how));
    }

    /// The socket gave an edge.
    pub(super) fn handle_event(&mut self, events: EventSet) {
        let end = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
        self.readable |= self.socket.is_some() && events.intersects(EventSet::IN | end);
        self.ending |= events.intersects(end);
        if events.contains(EventSet::HANG_UP) {
            match self.state {
                // The client did not wait for the guest's answer.
                State::Requesting | State::Requested => self.fail(),
                _ => self.stop_receiving(),
            }
        } else if events.contains(EventSet::OUT) {
            self.send_backlog();
        }
    }

    fn send_backlog(&mut self) {
        let sent = self.socket.as_ref().map(|socket| self.backlog.send_to(socket.as_fd()));
        match sent {
            None => {}
            Some(Ok(sent)) => {
                self.window.forward(sent);
                self.finish_sending();
            }
            Some(Err(_)) => self.stop_receiving(),
        }
    }

    /// The host program will take no more: what the guest sent it is lost, as over any connection that ends.
    fn stop_receiving(&mut self) {
        self.host_shutdown |= SHUTDOWN_RECEIVE;
        self.window.forward(self.backlog.len());
        self.backlog.clear();
        self.close_if_done();
    }

    /// Lets go of the socket once nothing can go either way, and of the connection once the guest knows.
    fn close_if_done(&mut self) {
        let to_guest_over = self.host_shutdown & SHUTDOWN_SEND != 0 || self.guest_shutdown & SHUTDOWN_RECEIVE != 0;
        let to_host_over = self.host_shutdown & SHUTDOWN_RECEIVE != 0
            || self.guest_shutdown & SHUTDOWN_SEND != 0 && self.backlog.is_empty();
        if !(to_guest_over && to_host_over) {
            return;
        }
        self.drop_socket();
        if self.guest_shutdown == SHUTDOWN_BOTH {
            self.state = State::Resetting;
        } else {
            self.host_shutdown = SHUTDOWN_BOTH;
        }
    }

    /// Ends the connection for both sides.
    fn fail(&mut self) {
        self.state = State::Resetting;
        self.drop_socket();
    }

    fn drop_socket(&mut self) {
        self.socket = None;
        self.backlog.clear();
        self.readable = false;
    }
}

/// A packet of nothing but its operation.
fn plain(op: Op) -> Packet {
    Packet { op, ..Packet::RESET }
}
