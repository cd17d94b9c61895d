//! Waiting until a guest can serve, for every backend.

use std::fmt;
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::console::ConsoleLog;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::gate::Gate;
use crate::spec::ReadyCheck;
use crate::timeline::{Phase, Recorder};

/// First and longest time between two attempts to reach a guest that does not answer yet. An attempt costs a guest on
/// the same processor time, so they become rarer.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Time for a connection or an answer within one attempt: a guest that is up answers at once, and a SYN that was sent
/// before it was up is sent again sooner than the kernel would.
const FIRST_ATTEMPT: Duration = Duration::from_millis(20);
const LONGEST_ATTEMPT: Duration = Duration::from_secs(1);
/// A status line, or a POST's request line, is not longer than this: a guest cannot make us read without end.
const MAX_LINE: usize = 8 << 10;

/// Says once that the guest is ready, and when that was; or that it ended without.
#[derive(Clone)]
pub struct ReadySignal {
    verdict: Arc<Gate<bool>>,
    recorder: Arc<Recorder>,
    on_given: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for ReadySignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadySignal({:?})", self.verdict.get())
    }
}

impl ReadySignal {
    /// A signal that stamps `recorder`.
    pub fn new(recorder: Arc<Recorder>) -> Self {
        Self {
            verdict: Arc::new(Gate::default()),
            recorder,
            on_given: None,
        }
    }

    /// A signal that calls `on_given` when it is given, on the giver's thread: it must return at once.
    pub fn told(recorder: Arc<Recorder>, on_given: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            on_given: Some(Arc::new(on_given)),
            ..Self::new(recorder)
        }
    }

    /// The guest is ready; only the first time counts.
    pub fn give(&self) {
        // Whoever is told finds the stamp in the timeline.
        let first = self.verdict.open_after(true, || self.recorder.record(Phase::Ready));
        if let (true, Some(on_given)) = (first, &self.on_given) {
            on_given();
        }
    }

    /// The guest has ended, and will not give the signal any more.
    pub fn guest_ended(&self) {
        self.verdict.open(false);
    }

    /// Whether it was given.
    pub fn is_given(&self) -> bool {
        self.verdict.get() == Some(true)
    }

    fn wait(&self, timeout: Duration) -> bool {
        self.verdict.wait(Some(timeout)) == Some(true)
    }
}

/// The signs of a guest's life that checks go by.
#[derive(Clone, Copy, Debug)]
pub struct Signs<'a> {
    /// The guest's own signal.
    pub ready: &'a ReadySignal,
    /// What it writes.
    pub console: &'a ConsoleLog,
    /// Opens when it has ended.
    pub exit: &'a Gate<Exit>,
}

/// A readiness check, with the host resources that it needs.
#[derive(Debug)]
pub enum Readiness {
    /// Ready when running.
    Started,
    /// Signalled by an event of the machine: boot port, vsock connection.
    Signalled,
    /// A text on the console.
    Console(Vec<u8>),
    /// A TCP connection.
    Tcp(SocketAddr),
    /// An answer to GET.
    Http(SocketAddr, String),
    /// A POST from the guest.
    Post(TcpListener, String),
}

impl Readiness {
    /// Takes the resources that `check` needs.
    ///
    /// # Errors
    /// An address to listen on that cannot be had.
    pub fn new(check: Option<&ReadyCheck>) -> Result<Self> {
        Ok(match check {
            None | Some(ReadyCheck::Started) => Self::Started,
            Some(ReadyCheck::BootPort | ReadyCheck::Vsock { .. }) => Self::Signalled,
            Some(ReadyCheck::Console { marker }) => Self::Console(marker.clone().into_bytes()),
            Some(ReadyCheck::Tcp { address }) => Self::Tcp(*address),
            Some(ReadyCheck::Http { address, path }) => Self::Http(*address, path.clone()),
            Some(ReadyCheck::Post { listen, path }) => Self::Post(bind(*listen)?, path.clone()),
        })
    }

    /// Waits until the check passes, the guest ends or `timeout` is over. That it passed is stamped.
    ///
    /// # Errors
    /// [`ErrorKind::GuestEnded`] and [`ErrorKind::Timeout`].
    pub fn wait(&self, signs: &Signs<'_>, timeout: Duration) -> Result<()> {
        let deadline = Instant::now().checked_add(timeout);
        let left = || match deadline {
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            None => timeout,
        };
        let passed = match self {
            Self::Started => true,
            Self::Signalled => signs.ready.wait(timeout),
            Self::Console(marker) => signs.console.wait_for(marker, 0, timeout).is_some(),
            Self::Tcp(address) => attempt(signs.exit, left, |time| connect(*address, time).is_some()),
            Self::Http(address, path) => attempt(signs.exit, left, |time| answers(*address, path, time)),
            Self::Post(listener, path) => attempt(signs.exit, left, |_| posted(listener, path)),
        };
        match (passed, signs.exit.get()) {
            (true, _) => {
                signs.ready.give();
                // A guest that has ended takes no signal any more; its check passed all the same.
                signs.ready.recorder.record(Phase::Ready);
                Ok(())
            }
            (false, Some(exit)) => {
                let context = format!("the guest ended before it was ready: {exit}");
                Err(Error::new(ErrorKind::GuestEnded, context))
            }
            (false, None) => Err(Error::timeout("the guest to be ready")),
        }
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    let failed = |error: std::io::Error| {
        let kind = match error.kind() {
            IoErrorKind::AddrInUse => ErrorKind::InUse,
            IoErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::HostFailure,
        };
        let context = format!("cannot listen on {address}");
        Error::new(kind, context)
            .with_field("ready.post.listen")
            .with_source(error)
    };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Tries until it succeeds, the guest ends or no time is left; between two attempts it waits for the guest's end.
fn attempt(exit: &Gate<Exit>, left: impl Fn() -> Duration, mut try_it: impl FnMut(Duration) -> bool) -> bool {
    let (mut pause, mut time) = (FIRST_PAUSE, FIRST_ATTEMPT);
    loop {
        if try_it(time.min(left()).max(Duration::from_millis(1))) {
            return true;
        }
        if left().is_zero() || exit.wait(Some(pause.min(left()))).is_some() {
            return false;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        time = (time * 2).min(LONGEST_ATTEMPT);
    }
}

fn connect(address: SocketAddr, time: Duration) -> Option<TcpStream> {
    TcpStream::connect_timeout(&address, time).ok()
}

/// Whether `GET path` is answered with status 200.
fn answers(address: SocketAddr, path: &str, time: Duration) -> bool {
    let Some(mut stream) = connect(address, time) else {
        return false;
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let asked = stream
        .set_read_timeout(Some(time))
        .and_then(|()| stream.write_all(request.as_bytes()));
    asked.is_ok() && first_line(&mut stream).is_some_and(|line| line.split(' ').nth(1) == Some("200"))
}

/// Whether a guest has posted to `path` by now; its request is answered in any case.
fn posted(listener: &TcpListener, path: &str) -> bool {
    while let Ok((mut stream, _)) = listener.accept() {
        let prepared = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_read_timeout(Some(LONGEST_ATTEMPT)));
        let line = prepared.ok().and_then(|()| first_line(&mut stream)).unwrap_or_default();
        let mut words = line.split(' ');
        let matches = words.next() == Some("POST") && words.next() == Some(path);
        let status = if matches { "204 No Content" } else { "404 Not Found" };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        // A guest that does not wait for the answer has posted all the same.
        let _ = stream.write_all(answer.as_bytes());
        if matches {
            return true;
        }
    }
    false
}

/// The first line that the peer sends, without its end.
fn first_line(stream: &mut TcpStream) -> Option<String> {
    let mut line = Vec::new();
    let mut buffer = [0; 512];
    while line.len() < MAX_LINE {
        let count = match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => count,
        };
        line.extend_from_slice(&buffer[..count]);
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let text = String::from_utf8_lossy(&line[..end]);
            return Some(text.trim_end_matches('\r').to_owned());
        }
    }
    None
}
