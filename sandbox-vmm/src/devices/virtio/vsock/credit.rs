//! Credit-based flow control (§5.10.6.3). Byte counts are modulo 2^32.

use std::num::Wrapping;

use super::BUFFER_SIZE;
use super::packet::Packet;

/// Room taken up and freed again after which the guest is told, if nothing else went to it meanwhile: while it sends a
/// stream it waits for this at most once per half a buffer, and is not told of every packet.
const ANNOUNCED_AFTER: u32 = BUFFER_SIZE / 2;

/// How much may be sent to the guest.
#[derive(Debug, Default)]
pub(super) struct SendCredit {
    buf_alloc: u32,
    fwd_cnt: Wrapping<u32>,
    sent: Wrapping<u32>,
    /// The guest was asked for credit and has not given any since.
    requested: bool,
}

impl SendCredit {
    /// Takes over what a packet from the guest says.
    pub(super) fn update(&mut self, packet: &Packet) {
        self.buf_alloc = packet.buf_alloc;
        self.fwd_cnt = Wrapping(packet.fwd_cnt);
        if self.available() > 0 {
            self.requested = false;
        }
    }

    /// Bytes that the guest has room for. None for a guest that claims to have taken more than it was sent.
    pub(super) fn available(&self) -> u32 {
        let under_way = (self.sent - self.fwd_cnt).0;
        self.buf_alloc.saturating_sub(under_way)
    }

    /// Bytes were sent.
    pub(super) fn spend(&mut self, bytes: u32) {
        self.sent += bytes;
    }

    /// Whether the guest is to be asked: there is no credit, and it was not asked since there last was. A guest whose
    /// program does not read answers that it still has none, and tells of its own accord when that changes; asking on
    /// would keep both sides busy for nothing.
    pub(super) fn wants_request(&self) -> bool {
        self.available() == 0 && !self.requested
    }

    /// The guest was asked.
    pub(super) fn requested(&mut self) {
        self.requested = true;
    }
}

/// How much the guest may send.
#[derive(Debug, Default)]
pub(super) struct ReceiveWindow {
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    /// `forwarded` as the guest was told last.
    announced: Wrapping<u32>,
    /// The guest asked.
    asked: bool,
}

impl ReceiveWindow {
    /// Counts what the guest sent. False if it had no credit for it.
    pub(super) fn receive(&mut self, bytes: u32) -> bool {
        let held = (self.received - self.forwarded).0;
        // Counted against what there is, not what was announced: the guest may know less, never more.
        if bytes > BUFFER_SIZE - held {
            return false;
        }
        self.received += bytes;
        true
    }

    /// Counts what left for the host.
    pub(super) fn forward(&mut self, bytes: usize) {
        // Fits: no more is held than the buffer's size.
        self.forwarded += bytes as u32;
    }

    /// The guest asked for its credit.
    pub(super) fn asked(&mut self) {
        self.asked = true;
    }

    /// Whether the guest is to be told.
    pub(super) fn wants_update(&self) -> bool {
        self.asked || (self.forwarded - self.announced).0 >= ANNOUNCED_AFTER
    }

    /// A packet to the guest, which tells it in passing.
    pub(super) fn announce(&mut self, packet: Packet) -> Packet {
        self.asked = false;
        self.announced = self.forwarded;
        Packet {
            buf_alloc: BUFFER_SIZE,
            fwd_cnt: self.forwarded.0,
            ..packet
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_guest(buf_alloc: u32, fwd_cnt: u32) -> Packet {
        Packet {
            buf_alloc,
            fwd_cnt,
            ..Packet::RESET
        }
    }

    #[test]
    fn credit_to_the_guest_is_spent_and_renewed() {
        let mut credit = SendCredit::default();
        assert_eq!(credit.available(), 0);
        credit.update(&from_guest(1000, 0));
        credit.spend(700);
        assert_eq!((credit.available(), credit.wants_request()), (300, false));
        credit.spend(300);
        assert!(credit.wants_request());
        credit.requested();
        assert!(!credit.wants_request());
        credit.update(&from_guest(1000, 0));
        assert!(!credit.wants_request(), "it has answered that it has none");
        credit.update(&from_guest(1000, 400));
        assert_eq!(credit.available(), 400);
        credit.spend(400);
        assert!(credit.wants_request());
    }

    #[test]
    fn a_guest_that_claims_to_have_taken_what_it_was_never_sent_gets_nothing() {
        let mut credit = SendCredit::default();
        credit.update(&from_guest(1000, 1));
        assert_eq!(credit.available(), 0);
        credit.update(&from_guest(100, 0));
        credit.spend(100);
        credit.update(&from_guest(50, 0));
        assert_eq!(credit.available(), 0, "a buffer that shrank below what is under way");
    }

    #[test]
    fn counts_go_round() {
        let mut credit = SendCredit {
            sent: Wrapping(u32::MAX - 10),
            ..SendCredit::default()
        };
        credit.update(&from_guest(1000, u32::MAX - 10));
        credit.spend(20);
        assert_eq!(credit.available(), 980);
    }

    #[test]
    fn the_window_closes_and_opens_with_what_leaves_for_the_host() {
        let mut window = ReceiveWindow::default();
        assert!(window.receive(BUFFER_SIZE));
        assert!(!window.receive(1));
        window.forward(ANNOUNCED_AFTER as usize - 1);
        assert!(!window.wants_update());
        window.forward(1);
        assert!(window.wants_update());
        let packet = window.announce(Packet::RESET);
        assert_eq!((packet.buf_alloc, packet.fwd_cnt), (BUFFER_SIZE, ANNOUNCED_AFTER));
        assert!(!window.wants_update());
        assert!(window.receive(ANNOUNCED_AFTER));
        window.asked();
        assert!(window.wants_update());
    }
}
