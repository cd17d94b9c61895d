//! A guest's console output, bounded, readable while the guest writes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::listeners::{Listener, Listeners};

/// A piece of console output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsoleChunk {
    /// Position of the first byte, counted from the first that the guest ever wrote.
    pub start: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// No more can come: the guest has ended.
    pub closed: bool,
}

impl ConsoleChunk {
    /// Position behind the last byte: where to read on.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// The last bytes that a guest wrote to its console, each with a position that never changes.
///
/// Holds at most its capacity: a guest that writes without end pushes its own oldest output out and costs no more
/// memory. Writers never wait for readers.
#[derive(Debug)]
pub struct ConsoleLog {
    capacity: usize,
    inner: Mutex<Inner>,
    changed: Condvar,
    listeners: Listeners,
}

#[derive(Debug, Default)]
struct Inner {
    /// Position of the first byte that is still held.
    start: u64,
    bytes: VecDeque<u8>,
    closed: bool,
    waiters: usize,
}

impl Inner {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ConsoleLog {
    /// A log that keeps the last `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            inner: Mutex::new(Inner::default()),
            changed: Condvar::new(),
            listeners: Listeners::default(),
        }
    }

    /// Has `listener` called at every piece of output from now on and at the end, for as long as it exists. It is
    /// called by whoever writes, so it must return at once. Output that is there already is not told.
    pub fn listen(&self, listener: Weak<Listener>) {
        self.listeners.add(listener);
    }

    /// Appends what the guest wrote.
    pub fn append(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        inner.bytes.extend(bytes);
        let excess = inner.bytes.len().saturating_sub(self.capacity);
        if excess > 0 {
            inner.bytes.drain(..excess);
            inner.start += excess as u64;
        }
        if inner.waiters > 0 {
            self.changed.notify_all();
        }
        drop(inner);
        self.listeners.tell();
    }

    /// Appends output that begins at `start`: what lies between the present end and there was lost on the way. Output
    /// that is held already is not appended again.
    pub fn append_at(&self, start: u64, bytes: &[u8]) {
        let known = {
            let mut inner = self.lock();
            if start > inner.end() {
                inner.bytes.clear();
                inner.start = start;
            }
            usize::try_from(inner.end() - start).unwrap_or(usize::MAX)
        };
        if let Some(news) = bytes.get(known..) {
            self.append(news);
        }
    }

    /// Says that no more output will come, and wakes all readers.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        self.changed.notify_all();
        drop(inner);
        self.listeners.tell();
    }

    /// Whether no more output will come.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// What is held from `position` on; starts later if that has been pushed out already. Does not wait.
    pub fn read_from(&self, position: u64) -> ConsoleChunk {
        let inner = self.lock();
        chunk(&inner, position)
    }

    /// Like [`ConsoleLog::read_from`], but waits up to `timeout` for a byte at or behind `position` or for the end.
    pub fn wait_from(&self, position: u64, timeout: Duration) -> ConsoleChunk {
        let deadline = Instant::now().checked_add(timeout);
        let mut inner = self.lock();
        inner.waiters += 1;
        while inner.end() <= position && !inner.closed {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            inner = match left {
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let waited = self.changed.wait_timeout(inner, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
            };
        }
        inner.waiters -= 1;
        chunk(&inner, position)
    }

    /// Waits until `marker` stands in the output at or behind `position`. `Some` with the position behind it, or
    /// `None` when the output ended, or the time was over, without it.
    pub fn wait_for(&self, marker: &[u8], position: u64, timeout: Duration) -> Option<u64> {
        let deadline = Instant::now().checked_add(timeout);
        let mut seen: Vec<u8> = Vec::new();
        let mut next = position;
        loop {
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => timeout,
            };
            let chunk = self.wait_from(next, left);
            if chunk.start > next {
                // Output in between was lost, so what was seen before does not join what comes now.
                seen.clear();
            }
            seen.extend_from_slice(&chunk.bytes);
            next = chunk.end();
            if let Some(index) = find(&seen, marker) {
                return Some(next - (seen.len() - index - marker.len()) as u64);
            }
            let kept = marker.len().saturating_sub(1).min(seen.len());
            seen.drain(..seen.len() - kept);
            if chunk.closed || (chunk.bytes.is_empty() && left.is_zero()) {
                return None;
            }
        }
    }

    /// The last `lines` lines, as text.
    pub fn tail(&self, lines: usize) -> String {
        let chunk = self.read_from(0);
        let text = String::from_utf8_lossy(&chunk.bytes);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn chunk(inner: &Inner, position: u64) -> ConsoleChunk {
    let start = position.clamp(inner.start, inner.end());
    let skipped = (start - inner.start) as usize;
    ConsoleChunk {
        start,
        bytes: inner.bytes.range(skipped..).copied().collect(),
        closed: inner.closed,
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return Some(0);
    }
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn old_output_is_pushed_out_and_positions_stay() {
        let log = ConsoleLog::new(4);
        log.append(b"abcdef");
        assert_eq!(
            log.read_from(0),
            ConsoleChunk {
                start: 2,
                bytes: b"cdef".to_vec(),
                closed: false
            }
        );
        assert_eq!(log.read_from(5).bytes, b"f");
        assert_eq!(log.read_from(99).start, 6);
    }

    #[test]
    fn a_marker_split_over_two_writes_is_found() {
        let log = Arc::new(ConsoleLog::new(64));
        let writer = {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                log.append(b"boot ... rea");
                log.append(b"dy\nmore");
            })
        };
        assert_eq!(log.wait_for(b"ready", 0, Duration::from_secs(10)), Some(14));
        writer.join().unwrap();
    }

    #[test]
    fn the_end_of_output_ends_the_wait() {
        let log = ConsoleLog::new(64);
        log.append(b"nothing of the kind");
        log.close();
        assert_eq!(log.wait_for(b"ready", 0, Duration::MAX), None);
        assert!(log.wait_from(19, Duration::MAX).closed);
    }

    #[test]
    fn output_that_was_passed_on_keeps_its_positions() {
        let log = ConsoleLog::new(64);
        log.append_at(0, b"abc");
        log.append_at(2, b"cde");
        assert_eq!(log.read_from(0).bytes, b"abcde");
        log.append_at(0, b"ab");
        assert_eq!(log.read_from(0).end(), 5);
        log.append_at(9, b"xyz");
        let chunk = log.read_from(0);
        assert_eq!((chunk.start, &chunk.bytes[..]), (9, &b"xyz"[..]));
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let log = ConsoleLog::new(64);
        log.append(b"one\ntwo\nthree\n");
        assert_eq!(log.tail(2), "two\nthree");
    }
}
