//! The first line of a host program that wants to reach the guest.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::{ANY_PORT, unix};

/// Room for `CONNECT `, a port of 32 bits and the end of the line. A client that sends more without one is sent away.
const MAX_LINE_LEN: usize = "CONNECT 4294967295\n".len();

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// It has not ended its line yet.
    Waiting,
    /// It wants this port of the guest.
    Connect(u32),
    /// It is gone, or said something else.
    Refused,
}

/// Reads the client's line as far as it is there, and nothing behind it: that is the guest's.
pub(super) fn read_greeting(client: &mut UnixStream) -> Greeting {
    let mut line = [0; MAX_LINE_LEN];
    let length = match unix::peek(client.as_fd(), &mut line) {
        Ok(0) => return Greeting::Refused,
        Ok(length) => length,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            return Greeting::Waiting;
        }
        Err(_) => return Greeting::Refused,
    };
    let Some(end) = line[..length].iter().position(|byte| *byte == b'\n') else {
        return match length < MAX_LINE_LEN {
            true => Greeting::Waiting,
            false => Greeting::Refused,
        };
    };
    match (take(client, &mut line[..=end]), parse(&line[..end])) {
        (Ok(()), Some(port)) => Greeting::Connect(port),
        _ => Greeting::Refused,
    }
}

/// Takes the line out of the socket, in which it was seen to lie.
fn take(client: &mut UnixStream, line: &mut [u8]) -> io::Result<()> {
    client.read_exact(line)
}

fn parse(line: &[u8]) -> Option<u32> {
    let port = std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?;
    // The standard parser also takes a sign.
    let port = port
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| port.parse().ok())??;
    (port != ANY_PORT).then_some(port)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let cases: [(&[u8], Greeting); 12] = [
            (b"CONNECT 52\n", Greeting::Connect(52)),
            (b"CONNECT 4294967294\n", Greeting::Connect(4_294_967_294)),
            (b"CONNECT 0\n", Greeting::Connect(0)),
            (b"CONNECT 4294967295\n", Greeting::Refused),
            (b"CONNECT 4294967296\n", Greeting::Refused),
            (b"CONNECT +52\n", Greeting::Refused),
            (b"CONNECT\n", Greeting::Refused),
            (b"CONNECT \n", Greeting::Refused),
            (b"GET / HTTP/1.1\n", Greeting::Refused),
            (b"\xff\n", Greeting::Refused),
            (b"CONNECT 0000000000000000052", Greeting::Refused),
            (b"CONNECT 5", Greeting::Waiting),
        ];
        for (line, expected) in cases {
            let (mut near, mut far) = UnixStream::pair().unwrap();
            far.write_all(line).unwrap();
            assert_eq!(read_greeting(&mut near), expected, "{line:?}");
        }
    }

    #[test]
    fn a_line_may_come_in_pieces_and_what_follows_stays() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        assert_eq!(read_greeting(&mut near), Greeting::Waiting);
        far.write_all(b"CONN").unwrap();
        assert_eq!(read_greeting(&mut near), Greeting::Waiting);
        far.write_all(b"ECT 80\nGET /\n").unwrap();
        assert_eq!(read_greeting(&mut near), Greeting::Connect(80));
        drop(far);
        let mut rest = String::new();
        near.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "GET /\n");
        assert_eq!(read_greeting(&mut near), Greeting::Refused);
    }
}
