//! The socket between embedder and worker: messages with descriptors, each bounded.
//!
//! A message is one packet of a `SOCK_SEQPACKET` socket, or several in a row where it is longer; the first one begins
//! with a header. Only the embedder may send long messages and descriptors: what a worker sends is a single packet, so
//! that the embedder keeps nothing half-received for a worker that does not go on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Version of the messages. A worker of another version is refused, whichever side is the older one.
const VERSION: u16 = 3;
/// Tells a message from whatever else may be read from a descriptor that is no channel.
const MAGIC: u16 = 0x5bce;
/// Bytes of the header: magic, version, and the message's length.
const HEADER: usize = 8;
/// Longest packet, header included, in bytes: small enough for the kernel's default socket buffer to hold three.
pub(in crate::worker) const PACKET: usize = 48 << 10;
/// Longest message to a worker, in bytes: a spec of the greatest length, escaped, and a kernel that is small enough to
/// be copied.
const MAX_MESSAGE: usize = 4 << 20;
/// Most descriptors with one message: a disk or tap per device, the sockets of a socket device, and kernel and initrd or
/// the state and the files of a clone's memory.
const MAX_DESCRIPTORS: usize = 48;

/// Why a message did not come or go.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other side is gone.
    #[error("the other side has closed the socket")]
    Closed,
    /// The other side is of another version.
    #[error(
        "the other side speaks version {0} of the protocol, and this one {VERSION}; use worker and library of one build"
    )]
    Version(u16),
    /// What came is no message.
    #[error("what came is no message: {0}")]
    Nonsense(&'static str),
    /// What is to be sent is longer than the other side takes.
    #[error("the message has {0} bytes, more than the other side takes")]
    TooLong(usize),
    /// The other side does not read.
    #[error("the other side does not read its messages")]
    Stuck,
    /// The socket failed.
    #[error("the socket failed")]
    Socket(#[from] io::Error),
}

/// One end of the socket.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl ScmSocket for Channel {
    fn socket_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl Channel {
    /// Two connected ends.
    pub fn pair() -> io::Result<(Self, Self)> {
        let mut fds = [0; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: the array has room for the two descriptors that the kernel writes.
        match unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } {
            // SAFETY: both were just made and belong to nobody else.
            0 => Ok(unsafe { (Self(OwnedFd::from_raw_fd(fds[0])), Self(OwnedFd::from_raw_fd(fds[1]))) }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The end that somebody else made.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends a message with descriptors, and waits up to `patience` for the other side to make room.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Result<(), ChannelError> {
        let mut bytes = vec![0; HEADER];
        bytes = postcard::to_extend(message, bytes).map_err(|_| ChannelError::Nonsense("it cannot be encoded"))?;
        if bytes.len() > MAX_MESSAGE || fds.len() > MAX_DESCRIPTORS {
            return Err(ChannelError::TooLong(bytes.len()));
        }
        let header = header(bytes.len() - HEADER);
        bytes[..HEADER].copy_from_slice(&header);
        let deadline = Instant::now() + patience;
        let mut raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        for packet in bytes.chunks(PACKET) {
            self.wait_for(libc::POLLOUT, deadline)?;
            self.send_with_fds(&[packet], &raw)
                .map_err(|error| closed_or(error.into()))?;
            raw.clear();
        }
        Ok(())
    }

    /// The next message and its descriptors, or [`ChannelError::Stuck`] if it does not come in time.
    pub fn receive_within<T: DeserializeOwned>(&self, patience: Duration) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        self.wait_for(libc::POLLIN, Instant::now() + patience)?;
        self.receive()
    }

    /// The next message and its descriptors. Waits for it.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        let mut bytes = vec![0; PACKET];
        let mut raw = [-1; MAX_DESCRIPTORS];
        let (first, count) = self.receive_packet(&mut bytes, &mut raw)?;
        // SAFETY: the kernel made these descriptors for this message, and nobody else knows them.
        let fds = raw[..count]
            .iter()
            .map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) })
            .collect();
        let total = HEADER + length_of(&bytes[..first])?;
        if total > MAX_MESSAGE {
            return Err(ChannelError::Nonsense("its length is beyond all bounds"));
        }
        bytes.resize(total.max(first), 0);
        let mut filled = first;
        while filled < total {
            let (more, _) = self.receive_packet(&mut bytes[filled..], &mut [])?;
            filled += more;
        }
        Ok((decode(&bytes[HEADER..total])?, fds))
    }

    /// A message in a single packet without descriptors, or `None` if none is there. Does not wait. `buffer` has
    /// [`PACKET`] bytes.
    pub fn try_receive<T: DeserializeOwned>(&self, buffer: &mut [u8]) -> Result<Option<T>, ChannelError> {
        // SAFETY: the kernel writes no more than the length of `buffer`, which is borrowed mutably. Without room for
        // them, descriptors that a hostile worker sends are closed by the kernel.
        let count = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(closed_or(error)),
            };
        };
        if count == 0 {
            return Err(ChannelError::Closed);
        }
        let packet = buffer.get(..count).ok_or(ChannelError::Nonsense("it is too long"))?;
        parse(packet).map(Some)
    }

    /// Waits until the socket is ready for `events`.
    fn wait_for(&self, events: libc::c_short, deadline: Instant) -> Result<(), ChannelError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd {
                fd: self.0.as_raw_fd(),
                events,
                revents: 0,
            };
            let milliseconds = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: one pollfd that outlives the call.
            match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                -1 => return Err(io::Error::last_os_error().into()),
                0 => return Err(ChannelError::Stuck),
                _ => return Ok(()),
            }
        }
    }

    fn receive_packet(&self, buffer: &mut [u8], fds: &mut [RawFd]) -> Result<(usize, usize), ChannelError> {
        loop {
            let mut iovecs = [libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            }];
            // SAFETY: the one iovec describes `buffer`, which is borrowed mutably.
            match unsafe { self.recv_with_fds(&mut iovecs, fds) } {
                Ok((0, _)) => return Err(ChannelError::Closed),
                Ok(received) => return Ok(received),
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(closed_or(error.into())),
            }
        }
    }
}

fn closed_or(error: io::Error) -> ChannelError {
    match error.raw_os_error() {
        Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => ChannelError::Closed,
        _ => ChannelError::Socket(error),
    }
}

/// Length of the message whose first packet this is, without the header.
fn length_of(packet: &[u8]) -> Result<usize, ChannelError> {
    let Some([m0, m1, v0, v1, l0, l1, l2, l3]) = packet.first_chunk::<HEADER>() else {
        return Err(ChannelError::Nonsense("it is too short"));
    };
    if u16::from_le_bytes([*m0, *m1]) != MAGIC {
        return Err(ChannelError::Nonsense("it does not begin like one"));
    }
    match u16::from_le_bytes([*v0, *v1]) {
        VERSION => Ok(u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize),
        other => Err(ChannelError::Version(other)),
    }
}

/// The header of a message of `length` bytes.
pub fn header(length: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..2].copy_from_slice(&MAGIC.to_le_bytes());
    header[2..4].copy_from_slice(&VERSION.to_le_bytes());
    header[4..].copy_from_slice(&(length as u32).to_le_bytes());
    header
}

/// Reads a message that is one packet.
pub fn parse<T: DeserializeOwned>(packet: &[u8]) -> Result<T, ChannelError> {
    match HEADER + length_of(packet)? == packet.len() {
        true => decode(&packet[HEADER..]),
        false => Err(ChannelError::Nonsense("its length is not what it says")),
    }
}

/// Reads the body of a message; everything in it is bounded by its length.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, ChannelError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(ChannelError::Nonsense("bytes are left behind its end")),
        Err(_) => Err(ChannelError::Nonsense("it cannot be decoded")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_message_longer_than_a_packet_arrives_whole_with_its_descriptors() {
        let (near, far) = Channel::pair().unwrap();
        let file = File::open("/proc/self/comm").unwrap();
        let text = "x".repeat(3 * PACKET);
        let sent = text.clone();
        let sender = std::thread::spawn(move || near.send(&sent, &[file.as_fd()], PATIENCE).unwrap());
        let (received, fds): (String, Vec<OwnedFd>) = far.receive().unwrap();
        sender.join().unwrap();
        assert_eq!(received, text);
        let [fd] = <[OwnedFd; 1]>::try_from(fds).unwrap();
        let mut name = String::new();
        File::from(fd).read_to_string(&mut name).unwrap();
        assert!(!name.is_empty());
    }

    #[test]
    fn what_is_no_message_is_told_from_one() {
        let (near, far) = Channel::pair().unwrap();
        let mut buffer = vec![0; PACKET];
        assert!(far.try_receive::<u32>(&mut buffer).unwrap().is_none());
        let packets: [(&[u8], &str); 5] = [
            (b"short", "too short"),
            (b"no message at all", "does not begin"),
            (b"\xce\x5b\x09\x00\x01\x00\x00\x00\x07", "version 9"),
            (b"\xce\x5b\x03\x00\x09\x00\x00\x00\x07", "not what it says"),
            (b"\xce\x5b\x03\x00\x02\x00\x00\x00\x07\x07", "left behind"),
        ];
        for (packet, expected) in packets {
            near.send_with_fds(&[packet], &[]).unwrap();
            let error = far.try_receive::<u32>(&mut buffer).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        // The socket may take the second packet only when the first has been read.
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| near.send(&"y".repeat(PACKET), &[], PATIENCE));
            far.wait_for(libc::POLLIN, Instant::now() + PATIENCE).unwrap();
            let error = far.try_receive::<String>(&mut buffer).unwrap_err().to_string();
            assert!(error.contains("not what it says"), "{error}");
            sender.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_side_that_is_gone_or_does_not_read_is_an_error() {
        let (near, far) = Channel::pair().unwrap();
        let text = "z".repeat(PACKET / 2);
        let stuck = (0..64).find_map(|_| near.send(&text, &[], Duration::ZERO).err());
        assert!(matches!(stuck, Some(ChannelError::Stuck)), "{stuck:?}");
        drop(far);
        assert!(matches!(near.send(&text, &[], PATIENCE), Err(ChannelError::Closed)));
        assert!(matches!(near.receive::<u32>(), Err(ChannelError::Closed)));
    }
}
