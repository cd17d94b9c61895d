//! The header of every packet (§5.10.6).

use super::HOST_CID;

/// `VIRTIO_VSOCK_TYPE_STREAM`, the only kind of connection offered.
const TYPE_STREAM: u16 = 1;

/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: whoever says so will receive no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: whoever says so will send no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Op {
    /// Asks for a connection.
    Request = 1,
    /// Accepts one.
    Response = 2,
    /// Refuses or ends one.
    Reset = 3,
    /// Ends one or both directions.
    Shutdown = 4,
    /// Carries data.
    Data = 5,
    /// Tells the credit.
    CreditUpdate = 6,
    /// Asks for it.
    CreditRequest = 7,
}

impl Op {
    fn parse(op: u16) -> Option<Self> {
        let all = [
            Self::Request,
            Self::Response,
            Self::Reset,
            Self::Shutdown,
            Self::Data,
            Self::CreditUpdate,
            Self::CreditRequest,
        ];
        all.into_iter().find(|known| *known as u16 == op)
    }
}

/// The two ports that make a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) guest: u32,
    pub(super) host: u32,
}

/// A packet without its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) op: Op,
    /// `SHUTDOWN_*` for [`Op::Shutdown`], else 0.
    pub(super) flags: u32,
    /// Length of the payload, in bytes.
    pub(super) len: u32,
    /// Size of the sender's buffer for this connection, in bytes.
    pub(super) buf_alloc: u32,
    /// Bytes that the sender has taken out of its buffer since the connection began, modulo 2^32.
    pub(super) fwd_cnt: u32,
}

impl Packet {
    /// A refusal.
    pub(super) const RESET: Self = Self {
        op: Op::Reset,
        flags: 0,
        len: 0,
        buf_alloc: 0,
        fwd_cnt: 0,
    };
}

/// What a header from the guest turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A packet to the host.
    Packet(Ports, Packet),
    /// To the host, but of a type or with an operation that is not known: to be answered by a reset (§5.10.6.4).
    Unknown(Ports),
    /// With addresses that are not this guest's and the host's: to be ignored.
    Misaddressed,
}

/// Length of the header, in bytes.
pub(super) const HEADER_SIZE: usize = 44;

/// Reads a header that the guest with this context identifier sent.
pub(super) fn parse(bytes: &[u8; HEADER_SIZE], guest_cid: u64) -> Parsed {
    let u16_at = |offset| u16::from_le_bytes(field(bytes, offset));
    let u32_at = |offset| u32::from_le_bytes(field(bytes, offset));
    let u64_at = |offset| u64::from_le_bytes(field(bytes, offset));
    if (u64_at(0), u64_at(8)) != (guest_cid, HOST_CID) {
        return Parsed::Misaddressed;
    }
    let ports = Ports {
        guest: u32_at(16),
        host: u32_at(20),
    };
    let Some(op) = Op::parse(u16_at(30)).filter(|_| u16_at(28) == TYPE_STREAM) else {
        return Parsed::Unknown(ports);
    };
    let packet = Packet {
        op,
        flags: u32_at(32),
        len: u32_at(24),
        buf_alloc: u32_at(36),
        fwd_cnt: u32_at(40),
    };
    Parsed::Packet(ports, packet)
}

/// The header of a packet to the guest.
pub(super) fn header(guest_cid: u64, ports: Ports, packet: Packet) -> [u8; HEADER_SIZE] {
    let mut bytes = [0; HEADER_SIZE];
    let mut put = |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
    put(0, &HOST_CID.to_le_bytes());
    put(8, &guest_cid.to_le_bytes());
    put(16, &ports.host.to_le_bytes());
    put(20, &ports.guest.to_le_bytes());
    put(24, &packet.len.to_le_bytes());
    put(28, &TYPE_STREAM.to_le_bytes());
    put(30, &(packet.op as u16).to_le_bytes());
    put(32, &packet.flags.to_le_bytes());
    put(36, &packet.buf_alloc.to_le_bytes());
    put(40, &packet.fwd_cnt.to_le_bytes());
    bytes
}

/// The `N` bytes at `offset`.
fn field<const N: usize>(bytes: &[u8; HEADER_SIZE], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[offset..offset + N]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { guest: 1024, host: 80 };

    #[test]
    fn a_header_to_the_guest_has_the_layout_of_the_specification() {
        let packet = Packet {
            op: Op::Shutdown,
            flags: SHUTDOWN_BOTH,
            len: 0x0102,
            buf_alloc: 0x1_0000,
            fwd_cnt: 5,
        };
        let expected = [
            2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 80, 0, 0, 0, 0, 4, 0, 0, 2, 1, 0, 0, 1, 0, 4, 0, 3, 0, 0,
            0, 0, 0, 1, 0, 5, 0, 0, 0,
        ];
        assert_eq!(header(3, PORTS, packet), expected);
    }

    /// What a guest would have sent, by exchanging the addresses.
    fn from_guest(mut bytes: [u8; HEADER_SIZE]) -> [u8; HEADER_SIZE] {
        bytes[..16].rotate_left(8);
        bytes[16..24].rotate_left(4);
        bytes
    }

    #[test]
    fn what_is_written_is_read_back() {
        let packet = Packet {
            len: 7,
            ..Packet::RESET
        };
        let bytes = from_guest(header(3, PORTS, packet));
        assert_eq!(parse(&bytes, 3), Parsed::Packet(PORTS, packet));
        assert_eq!(parse(&bytes, 4), Parsed::Misaddressed);
    }

    #[test]
    fn an_unknown_type_or_operation_is_told_apart() {
        for (offset, value) in [(28, 2), (30, 0), (30, 8)] {
            let mut bytes = from_guest(header(3, PORTS, Packet::RESET));
            bytes[offset] = value;
            assert_eq!(parse(&bytes, 3), Parsed::Unknown(PORTS));
        }
    }
}
