//! A worker as the embedder sees it: its socket, its process, the calls that it has not answered.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::{Duration, Instant};

use sandbox_core::gate::Gate;
use sandbox_core::{Error, ErrorKind, Exit, Result};

use super::process::{Process, Status};
use super::protocol::channel::{Channel, ChannelError};
use super::protocol::{Answer, Call, Report, Request, Stamp};
use crate::devices::virtio::vsock::Connector;

/// How long the kernel may take to end a process that was killed.
const LONGEST_DEATH: Duration = Duration::from_secs(20);

/// What a worker tells beside its answers. Called on the steward's thread: nothing here may wait.
pub trait WorkerEvents: Send + Sync {
    /// Phases were reached.
    fn reached(&self, stamps: &[Stamp]);
    /// The guest wrote on its console.
    fn console(&self, start: u64, bytes: &[u8]);
    /// The guest says that it is ready.
    fn ready(&self);
    /// The list of pages that the guest asked for is complete.
    fn recorded(&self);
    /// The guest has taken the identity of this generation.
    fn confirmed(&self, generation: u32);
    /// The guest ended.
    fn exited(&self, exit: Exit);
    /// The worker is gone, with these last words; it is reaped, and all that it held is given back. May be told twice.
    fn gone(&self, words: &str);
}

/// A worker.
pub struct Link {
    /// `None` behind the worker's end: its descriptors are given back with everything else of it.
    ends: RwLock<Option<Ends>>,
    pid: libc::pid_t,
    /// How long a call may take.
    patience: Duration,
    calls: Mutex<Calls>,
    answered: Condvar,
    /// Keeps calls in the order of their numbers on the socket.
    sending: Mutex<()>,
    events: OnceLock<Weak<dyn WorkerEvents>>,
    broker: Mutex<Option<Broker>>,
    /// Opens with the last words.
    death: Gate<String>,
}

/// What the embedder holds of a worker.
struct Ends {
    channel: Channel,
    process: Process,
}

/// The guest's connections to the host, which the worker cannot make itself.
pub struct Broker {
    /// Where the worker asks.
    pub channel: Channel,
    /// Where the connections go.
    pub connector: Box<dyn Connector>,
}

#[derive(Default)]
struct Calls {
    next: u32,
    /// The number of the call whose answer comes next.
    expected: u32,
    answers: BTreeMap<u32, Result<Answer>>,
    /// A call that takes long, and until when it may.
    long: Option<(u32, Instant)>,
    /// Why the embedder ended the worker.
    verdict: Option<String>,
    dead: bool,
}

impl Link {
    /// A worker behind `channel`.
    pub fn new(channel: Channel, process: Process, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            pid: process.pid(),
            ends: RwLock::new(Some(Ends { channel, process })),
            patience,
            calls: Mutex::default(),
            answered: Condvar::new(),
            sending: Mutex::new(()),
            events: OnceLock::new(),
            broker: Mutex::new(None),
            death: Gate::default(),
        })
    }

    /// The number of its process, for messages and for looking it up in `/proc`.
    pub fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// Ends it, whatever it does.
    pub fn kill(&self) {
        if let Some(Ends { process, .. }) = &*self.ends() {
            process.kill();
        }
    }

    /// How long a call may take.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// For the steward: the descriptors of socket and process.
    pub(super) fn descriptors(&self) -> Option<(RawFd, RawFd)> {
        let ends = self.ends();
        let Ends { channel, process } = ends.as_ref()?;
        Some((channel.as_fd().as_raw_fd(), process.pidfd().as_raw_fd()))
    }

    /// Says who is told of what happens; only the first one counts. Of a worker that is gone already it is told at once.
    pub fn tell(&self, events: Weak<dyn WorkerEvents>) {
        let _ = self.events.set(events);
        if let (Some(words), Some(events)) = (self.death.get(), self.listener()) {
            events.gone(&words);
        }
    }

    /// Whether it can take calls.
    pub fn is_alive(&self) -> bool {
        let calls = self.lock();
        !calls.dead && calls.verdict.is_none()
    }

    /// Asks for something; the answer is to be awaited by the number that is returned.
    pub fn post(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<u32> {
        match self.try_post(request, fds) {
            (id, true) => Ok(id),
            (_, false) => Err(self.lost()),
        }
    }

    /// The same for the steward, which must not wait: false if the worker is dead or dying, which waiting for the answer
    /// tells.
    pub(super) fn try_post(&self, request: Request, fds: &[BorrowedFd<'_>]) -> (u32, bool) {
        let _in_order = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let id = {
            let mut calls = self.lock();
            calls.next = calls.next.saturating_add(1);
            calls.next
        };
        let sent = match &*self.ends() {
            Some(Ends { channel, .. }) => channel.send(&Call { id, request }, fds, self.patience),
            None => Err(ChannelError::Closed),
        };
        match sent {
            Ok(()) => (id, true),
            // It ends: why, it says by its death.
            Err(ChannelError::Closed) => (id, false),
            Err(error) => {
                self.condemn(&error.to_string());
                (id, false)
            }
        }
    }

    /// Waits for the answer to call `id`.
    pub fn answer(&self, id: u32, what: &str) -> Result<Answer> {
        let asked = Instant::now();
        let mut calls = self.lock();
        loop {
            if let Some(answer) = calls.answers.remove(&id) {
                return answer;
            }
            // Calls are answered one after another: one that came behind a long one has its time after that.
            let begun = calls
                .long
                .filter(|(long, _)| *long <= id)
                .map_or(asked, |(_, due)| due.max(asked));
            let left = (begun + self.patience).saturating_duration_since(Instant::now());
            if calls.dead || left.is_zero() {
                break;
            }
            let waited = self.answered.wait_timeout(calls, left);
            calls = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let dead = calls.dead;
        drop(calls);
        if !dead {
            self.condemn(&format!("did not {what} within {} s", self.patience.as_secs_f32()));
        }
        Err(self.lost())
    }

    /// Asks for something that may take `longer` than other calls, and waits for the answer.
    pub fn call_long(&self, request: Request, fds: &[BorrowedFd<'_>], longer: Duration, what: &str) -> Result<Answer> {
        let begun = Instant::now();
        // Noted before it is sent, so that no call behind it has less time.
        self.lock().long = Some((0, begun + longer));
        let id = self.post(request, fds)?;
        self.lock().long = Some((id, begun + longer));
        let answer = self.answer(id, what);
        self.lock().long = None;
        answer
    }

    /// Asks for something and waits for the answer.
    pub fn call(&self, request: Request, what: &str) -> Result<Answer> {
        let id = self.post(request, &[])?;
        self.answer(id, what)
    }

    /// Ends the worker for what it did, or did not do.
    pub fn condemn(&self, verdict: &str) {
        self.lock().verdict.get_or_insert_with(|| verdict.to_owned());
        self.kill();
    }

    /// Serves the guest's connections from now on.
    pub fn set_broker(&self, broker: Broker) {
        *self.lock_broker() = Some(broker);
    }

    /// For the steward: one thing that the worker says, if there is any. False when nothing more can come.
    pub(super) fn hear(&self, buffer: &mut [u8]) -> Heard {
        let heard = match &*self.ends() {
            Some(Ends { channel, .. }) => channel.try_receive::<Report>(buffer),
            None => return Heard::End,
        };
        match heard {
            Ok(None) => Heard::Nothing,
            Ok(Some(report)) => {
                self.take(report);
                Heard::Something
            }
            Err(ChannelError::Closed) => {
                // A worker ends when its socket does. One that closes it and lives on is none any more.
                self.kill();
                Heard::End
            }
            Err(error) => {
                self.condemn(&format!("answered nonsense: {error}"));
                Heard::End
            }
        }
    }

    /// For the steward: one connection that the guest asks for, if any.
    pub(super) fn broker_connection(&self) -> Heard {
        let mut broker = self.lock_broker();
        let Some(Broker { channel, connector }) = &mut *broker else {
            return Heard::End;
        };
        let mut buffer = [0; 64];
        let port = match channel.try_receive::<u32>(&mut buffer) {
            Ok(None) => return Heard::Nothing,
            Ok(Some(port)) => port,
            Err(_) => return Heard::End,
        };
        let connection: Option<UnixStream> = connector.connect(port).ok();
        let fds: Vec<BorrowedFd<'_>> = connection.iter().map(AsFd::as_fd).collect();
        // A worker that asks and does not take the answer gets no more of them.
        match channel.send(&connection.is_some(), &fds, Duration::ZERO) {
            Ok(()) => Heard::Something,
            Err(_) => Heard::End,
        }
    }

    pub(super) fn broker_fd(&self) -> Option<RawFd> {
        let broker = self.lock_broker();
        broker.as_ref().map(|broker| broker.channel.as_fd().as_raw_fd())
    }

    /// For the steward: how the process ended, if it has; it is reaped then.
    pub(super) fn try_reap(&self) -> Option<Status> {
        self.ends().as_ref()?.process.try_reap()
    }

    /// For the steward: the process was reaped. Gives all descriptors of it back.
    pub(super) fn ended(&self, status: Status) {
        *self.lock_broker() = None;
        let ends = self.ends.write().unwrap_or_else(PoisonError::into_inner).take();
        let last_words = ends.map_or_else(String::new, |ends| ends.process.last_words());
        let words = {
            let mut calls = self.lock();
            calls.dead = true;
            words(calls.verdict.as_deref(), status, &last_words)
        };
        self.death.open(words.clone());
        self.answered.notify_all();
        if let Some(events) = self.listener() {
            events.gone(&words);
        }
    }

    fn take(&self, report: Report) {
        let events = self.listener();
        let events = events.as_deref();
        match report {
            Report::Answer { id, result } => self.take_answer(id, result.map_err(Error::from)),
            Report::Reached(stamps) => events.map_or((), |events| events.reached(&stamps)),
            Report::Console { start, bytes } => events.map_or((), |events| events.console(start, &bytes)),
            Report::Ready => events.map_or((), WorkerEvents::ready),
            Report::Recorded => events.map_or((), WorkerEvents::recorded),
            Report::Confirmed(generation) => events.map_or((), |events| events.confirmed(generation)),
            Report::Exited(exit) => events.map_or((), |events| events.exited(exit)),
        }
    }

    fn take_answer(&self, id: u32, answer: Result<Answer>) {
        let in_order = {
            let mut calls = self.lock();
            // Numbers begin at 1; a worker does not live for 2^32 calls.
            let in_order = Some(id) == calls.expected.checked_add(1) && id <= calls.next;
            if in_order {
                calls.expected = id;
                calls.answers.insert(id, answer);
            }
            in_order
        };
        match in_order {
            true => self.answered.notify_all(),
            false => self.condemn("answered nonsense: a call that nobody made"),
        }
    }

    /// The error for a worker that is dead or dying.
    fn lost(&self) -> Error {
        let words = self.death.wait(Some(LONGEST_DEATH));
        let words = words.unwrap_or_else(|| "it is being ended by the kernel".to_owned());
        Error::new(ErrorKind::WorkerLost, format!("the worker process is gone: {words}"))
    }

    fn listener(&self) -> Option<Arc<dyn WorkerEvents>> {
        self.events.get()?.upgrade()
    }

    fn ends(&self) -> RwLockReadGuard<'_, Option<Ends>> {
        self.ends.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_broker(&self) -> MutexGuard<'_, Option<Broker>> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a worker's end is told.
fn words(verdict: Option<&str>, status: Status, last_words: &str) -> String {
    let mut text = match verdict {
        Some(verdict) => format!("it {verdict}"),
        None => format!("it ended with {status}"),
    };
    if !last_words.is_empty() {
        text += &format!("; its last words: {last_words}");
    }
    text
}

/// What came of listening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing is there now.
    Nothing,
    /// Something was, and more may be.
    Something,
    /// Nothing more will come.
    End,
}
