//! Requests to the kernel's routing and link tables: the message format of
//! rtnetlink(7), reduced to requests that change something.
//!
//! Several requests go to the kernel in one `write`, and it answers before the
//! call returns. Only the last asks to be acknowledged; the others are answered
//! only if they fail. So a batch that succeeds costs one `write` and one `read`
//! however long it is.

use std::fs::File;
use std::io::{self, Read, Write};

/// Length in bytes of `struct nlmsghdr`: length, type, flags, sequence, port.
const HEADER_LENGTH: usize = 16;
/// Length in bytes of `struct rtattr`: length, type.
const ATTRIBUTE_HEADER_LENGTH: usize = 4;
/// Room for the answers to a batch, each at most the request and 36 bytes more.
const ANSWER_LENGTH: usize = 4096;

/// Flags at their offset in `struct nlmsghdr`.
const FLAGS_AT: usize = 6;

/// Requests to be sent together.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    last_start: usize,
    first_sequence: u32,
    requests: u32,
}

/// A request of a batch that the kernel refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Which request, counted from 0 in the order of the batch.
    pub(crate) request: u32,
    /// The kernel's `errno`.
    pub(crate) errno: i32,
}

impl Batch {
    /// An empty batch whose requests are numbered from `first_sequence` on.
    pub(crate) fn new(first_sequence: u32) -> Self {
        Self {
            bytes: Vec::with_capacity(256),
            last_start: 0,
            first_sequence,
            requests: 0,
        }
    }

    /// Begins a request of the type `kind` (`RTM_*`) and returns its number in
    /// the batch. `family_header` is the fixed part that the type prescribes.
    pub(crate) fn request(&mut self, kind: u16, flags: i32, family_header: &[u8]) -> u32 {
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        let sequence = self.first_sequence.wrapping_add(self.requests);
        self.last_start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        // The port: the kernel's own.
        self.bytes.extend_from_slice(&[0; 4]);
        self.append(family_header);
        self.requests += 1;
        self.requests - 1
    }

    /// Adds an attribute to the last request.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.append(&attribute(kind, value));
    }

    /// How many requests there are.
    pub(crate) fn len(&self) -> u32 {
        self.requests
    }

    /// Sends the batch and returns the refusals, in the order of the requests.
    ///
    /// # Errors
    /// Those of the socket itself. What was done of the batch is unknown then.
    pub(crate) fn send(mut self, mut socket: &File) -> io::Result<Vec<Refusal>> {
        let Some(last) = self.requests.checked_sub(1) else {
            return Ok(Vec::new());
        };
        self.bytes[self.last_start + FLAGS_AT] |= libc::NLM_F_ACK as u8;
        // The kernel takes a datagram as a whole or not at all.
        socket.write_all(&self.bytes)?;
        let mut refusals = Vec::new();
        let mut buffer = [0; ANSWER_LENGTH];
        loop {
            let length = socket.read(&mut buffer)?;
            for (sequence, errno) in answers(&buffer[..length]) {
                let request = sequence.wrapping_sub(self.first_sequence);
                if errno != 0 && request <= last {
                    refusals.push(Refusal { request, errno });
                }
                if request == last {
                    return Ok(refusals);
                }
            }
        }
    }

    /// Appends to the last request, which stays padded to four bytes.
    fn append(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
        let length = self.bytes.len() - self.last_start;
        let field = self.last_start..self.last_start + 4;
        self.bytes[field].copy_from_slice(&(length as u32).to_ne_bytes());
    }
}

/// An attribute with its header and padding, to nest in another or to add to a
/// request.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = ATTRIBUTE_HEADER_LENGTH + value.len();
    let mut bytes = Vec::with_capacity(padded(length));
    bytes.extend_from_slice(&(length as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(padded(length), 0);
    bytes
}

/// The sequence number and `errno`, 0 for success, of each acknowledgement
/// (`NLMSG_ERROR`) in a datagram.
fn answers(datagram: &[u8]) -> Vec<(u32, i32)> {
    let mut rest = datagram;
    let mut answers = Vec::new();
    while let Some(length) = field(rest, 0).map(|length| u32::from_ne_bytes(length) as usize) {
        if length < HEADER_LENGTH {
            break;
        }
        if let (Some([kind_low, kind_high, ..]), Some(sequence), Some(errno)) =
            (field(rest, 4), field(rest, 8), field(rest, HEADER_LENGTH))
            && i32::from(u16::from_ne_bytes([kind_low, kind_high])) == libc::NLMSG_ERROR
        {
            let errno = i32::from_ne_bytes(errno).wrapping_neg();
            answers.push((u32::from_ne_bytes(sequence), errno));
        }
        rest = rest.get(padded(length)..).unwrap_or_default();
    }
    answers
}

/// Four bytes at `offset`, if there are so many.
fn field(bytes: &[u8], offset: usize) -> Option<[u8; 4]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// `length` rounded up to the alignment of messages and attributes.
const fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u16_at(bytes: &[u8], at: usize) -> u16 {
        u16::from_ne_bytes([bytes[at], bytes[at + 1]])
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(field(bytes, at).unwrap())
    }

    fn acknowledgement(sequence: u32, errno: i32) -> Vec<u8> {
        let mut message = vec![0; HEADER_LENGTH + 4 + HEADER_LENGTH];
        let length = message.len() as u32;
        message[0..4].copy_from_slice(&length.to_ne_bytes());
        message[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        message[8..12].copy_from_slice(&sequence.to_ne_bytes());
        message[16..20].copy_from_slice(&(-errno).to_ne_bytes());
        message
    }

    #[test]
    fn requests_carry_length_sequence_and_padded_attributes() {
        let mut batch = Batch::new(7);
        assert_eq!(batch.request(20, libc::NLM_F_EXCL, &[1; 8]), 0);
        batch.attribute(3, &[9; 5]);
        assert_eq!(batch.request(19, 0, &[2; 16]), 1);

        let first_length = 16 + 8 + 12;
        assert_eq!(batch.len(), 2);
        assert_eq!(batch.bytes.len(), first_length + 32);
        assert_eq!(u32_at(&batch.bytes, 0), first_length as u32);
        assert_eq!(u16_at(&batch.bytes, 4), 20);
        assert_eq!(
            i32::from(u16_at(&batch.bytes, 6)),
            libc::NLM_F_REQUEST | libc::NLM_F_EXCL
        );
        assert_eq!(u32_at(&batch.bytes, 8), 7);
        assert_eq!(u16_at(&batch.bytes, 24), 4 + 5);
        assert_eq!(u16_at(&batch.bytes, 26), 3);
        assert_eq!(batch.bytes[28..36], [9, 9, 9, 9, 9, 0, 0, 0]);
        assert_eq!(u32_at(&batch.bytes, first_length), 32);
        assert_eq!(u32_at(&batch.bytes, first_length + 8), 8);
    }

    #[test]
    fn acknowledgements_are_read_and_other_messages_are_passed_over() {
        let mut datagram = acknowledgement(1, libc::EPERM);
        let mut other = acknowledgement(2, 0);
        other[4] = libc::RTM_NEWLINK as u8;
        datagram.extend(other);
        datagram.extend(acknowledgement(3, 0));
        assert_eq!(answers(&datagram), [(1, libc::EPERM), (3, 0)]);
    }

    #[test]
    fn a_truncated_answer_never_reads_past_its_end() {
        let datagram = acknowledgement(5, libc::EINVAL);
        for length in 0..datagram.len() {
            let expected = if length >= HEADER_LENGTH + 4 { 1 } else { 0 };
            assert_eq!(answers(&datagram[..length]).len(), expected, "{length}");
        }
        assert_eq!(answers(&[0; 64]), []);
    }

    #[test]
    fn the_kernel_refuses_what_it_does_not_know_and_counts_by_batch_order() {
        let socket = crate::sys::route_socket().unwrap();
        let missing = {
            let mut header = [0; 16];
            header[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
            header
        };
        let mut batch = Batch::new(u32::MAX);
        batch.request(libc::RTM_SETLINK, 0, &missing);
        batch.request(libc::RTM_SETLINK, 0, &missing);
        let requests: Vec<_> = batch
            .send(&socket)
            .unwrap()
            .into_iter()
            .map(|refusal| refusal.request)
            .collect();
        assert_eq!(requests, [0, 1]);
        assert_eq!(Batch::new(1).send(&socket).unwrap(), []);
    }
}
