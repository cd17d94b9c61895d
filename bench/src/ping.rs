//! ICMP echo (RFC 792) over a raw socket.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const IDENTIFIER: u16 = 0x5b0c;
const PAYLOAD: usize = 56;
/// IPv4 header without options.
const IP_HEADER: usize = 20;
const TIMEOUT_SECONDS: i64 = 10;

/// Pings one address.
pub(crate) struct Pinger {
    socket: OwnedFd,
    address: libc::sockaddr_in,
}

impl Pinger {
    /// A raw socket; needs CAP_NET_RAW.
    pub(crate) fn new(address: Ipv4Addr) -> io::Result<Self> {
        // SAFETY: socket has no memory preconditions; the result is checked before it is owned.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMP) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let timeout = libc::timeval {
            tv_sec: TIMEOUT_SECONDS,
            tv_usec: 0,
        };
        // SAFETY: the option's value is a timeval of the length that is passed.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const timeout).cast(),
                size_of_val(&timeout) as libc::socklen_t,
            )
        };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(address.octets()),
            },
            sin_zero: [0; 8],
        };
        Ok(Self { socket, address })
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn round_trip(&mut self, sequence: u16) -> io::Result<()> {
        let request = request(sequence);
        // SAFETY: buffer and address live for the call and have the lengths that are passed.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                request.as_ptr().cast(),
                request.len(),
                0,
                (&raw const self.address).cast(),
                size_of_val(&self.address) as libc::socklen_t,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut reply = [0; 256];
        loop {
            // SAFETY: the buffer has the length that is passed.
            let count = unsafe { libc::recv(self.socket.as_raw_fd(), reply.as_mut_ptr().cast(), reply.len(), 0) };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            let message = reply.get(IP_HEADER..count).unwrap_or_default();
            if message.len() >= 8 && message[0] == ECHO_REPLY && message[4..8] == request[4..8] {
                return Ok(());
            }
        }
    }
}

fn request(sequence: u16) -> [u8; 8 + PAYLOAD] {
    let mut message = [0; 8 + PAYLOAD];
    message[0] = ECHO_REQUEST;
    message[4..6].copy_from_slice(&IDENTIFIER.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let words = message.as_chunks::<2>().0;
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(folded as u16).wrapping_add((folded >> 16) as u16);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}
