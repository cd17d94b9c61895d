//! What the embedder and its reaper tell each other: one JSON document per message of a `SOCK_SEQPACKET` socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the messages. Both ends are normally the same program; an installed reaper may be another one.
pub const VERSION: u32 = 1;
/// Longest message in bytes; the arguments of a runtime are short, what is long stands in files.
const MAX_MESSAGE: usize = 64 << 10;
/// Descriptors that come with a message: standard input, output and error.
pub const STREAMS: usize = 3;

/// From the embedder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The first message.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The embedder's folder of sandboxes: it is swept when the embedder is gone.
        folder: PathBuf,
    },
    /// The embedder closes the socket next, and leaves nothing behind.
    Goodbye,
    /// Starts a program in a process group of its own; its three standard streams come with the message.
    Spawn {
        /// Number that the reply bears.
        number: u64,
        /// Program and arguments.
        command: Vec<PathBuf>,
        /// Working directory.
        directory: PathBuf,
        /// `cgroup.procs` files that the process joins before it becomes the program.
        cgroups: Vec<PathBuf>,
    },
    /// Sends a signal to a child, or to its process group.
    Signal {
        /// The child. Ignored if it has ended: its number may be somebody else's.
        pid: u32,
        /// Number of the signal.
        signal: i32,
        /// Whether the whole group is meant.
        group: bool,
    },
}

/// From the reaper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The answer to [`Request::Hello`].
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// A program was started.
    Spawned {
        /// The request's number.
        number: u64,
        /// Its process.
        pid: u32,
    },
    /// A program could not be started.
    NotSpawned {
        /// The request's number.
        number: u64,
        /// The operating system's error number, or 0.
        errno: i32,
    },
    /// A child has ended, started or adopted.
    Exited {
        /// The child.
        pid: u32,
        /// How.
        status: Status,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Unknown: the reaper is gone.
    Lost,
}

/// Sends one message with its descriptors.
pub fn send(socket: impl AsFd, message: &impl Serialize, streams: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !streams.is_empty() && !control.push(SendAncillaryMessage::ScmRights(streams)) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message with its descriptors; `None` when the other end is closed.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd, buffer: &mut Vec<u8>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    buffer.resize(MAX_MESSAGE, 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut streams = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            streams.extend(descriptors);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let message = serde_json::from_slice(&buffer[..received.bytes])?;
    Ok(Some((message, streams)))
}

/// Receives the one descriptor that comes with whatever message.
pub fn receive_descriptor(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 256];
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut messages = control.drain();
    let descriptor = messages.find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    #[allow(clippy::unwrap_used)]
    fn messages_come_whole_and_with_their_descriptors() {
        let (left, right) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let signal = Request::Signal {
            pid: 7,
            signal: 9,
            group: true,
        };
        send(&left, &signal, &[left.as_fd(), right.as_fd(), left.as_fd()]).unwrap();
        send(&left, &Reply::Hello { version: 1 }, &[]).unwrap();
        let mut buffer = Vec::new();
        let (message, streams) = receive::<Request>(&right, &mut buffer).unwrap().unwrap();
        assert!(matches!(
            message,
            Request::Signal {
                pid: 7,
                signal: 9,
                group: true
            }
        ));
        assert_eq!(streams.len(), STREAMS);
        // They keep the left end open.
        drop(streams);
        let (message, streams) = receive::<Reply>(&right, &mut buffer).unwrap().unwrap();
        assert!(matches!(message, Reply::Hello { version: 1 }) && streams.is_empty());
        let long = Request::Hello {
            version: 1,
            folder: PathBuf::from("x".repeat(MAX_MESSAGE)),
        };
        assert!(send(&left, &long, &[]).is_err());
        drop(left);
        assert!(receive::<Reply>(&right, &mut buffer).unwrap().is_none());
    }
}
