//! What stands behind a sandbox's handle, and the threads that calls with a token need.
//!
//! The trait's waits cannot be interrupted. So a call that can be cancelled does not make them itself: the wait for a
//! sandbox's end, for its readiness and for its teardown each have one thread at most, begun when first wanted, whose
//! outcome any number of callers and event queues hear of. Bounded work is made on a thread of its own that is left
//! behind when the caller goes. Calls without a token have no thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sandbox::listeners::{Listener, Listeners};
use sandbox::{Error, ErrorKind, Exit, Renewed, Sandbox, Uniqueness};

use crate::cancel::Token;
use crate::entry::{Failure, Outcome};
use crate::handle::{Kind, Table};
use crate::process::SignalsHeld;
use crate::wait::{Wait, is_timeout};

/// Time for what ends by itself as soon as the sandbox is torn down.
const LONG: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// All sandboxes.
pub static SANDBOXES: Table<SandboxObject> = Table::new(Kind::Sandbox);

/// A sandbox, and the threads that wait for it.
pub struct SandboxObject {
    pub sandbox: Arc<dyn Sandbox>,
    pub exit: Arc<Once<Exit>>,
    pub ready: Arc<Once<()>>,
    pub torn_down: Arc<Once<()>>,
    pub confirmed: Arc<Once<Uniqueness>>,
    pub wanted: Wanted,
    pub threads: Threads,
}

/// Which events some queue wants, so that they can be awaited as soon as they may come.
#[derive(Default)]
pub struct Wanted(AtomicU32);

impl Wanted {
    /// Wants the events of `mask` as well.
    pub fn add(&self, mask: u32) {
        self.0.fetch_or(mask, Ordering::SeqCst);
    }

    /// Whether any of the events of `mask` is wanted.
    pub fn has(&self, mask: u32) -> bool {
        self.0.load(Ordering::SeqCst) & mask != 0
    }
}

impl SandboxObject {
    pub fn new(sandbox: Box<dyn Sandbox>) -> Self {
        Self {
            sandbox: sandbox.into(),
            exit: Arc::default(),
            ready: Arc::default(),
            torn_down: Arc::default(),
            confirmed: Arc::default(),
            wanted: Wanted::default(),
            threads: Threads::default(),
        }
    }

    /// Has the end of the guest awaited, if it is not already.
    pub fn await_exit(&self) -> Outcome<()> {
        let sandbox = Arc::clone(&self.sandbox);
        self.exit.begin(&self.threads, move || sandbox.wait(None))
    }

    /// Has readiness awaited, if it is not already. The sandbox must have been started.
    pub fn await_ready(&self) -> Outcome<()> {
        let sandbox = Arc::clone(&self.sandbox);
        self.ready.begin(&self.threads, move || sandbox.wait_ready(LONG))
    }

    /// Has the end of the teardown, which was asked for, awaited, if it is not already.
    pub fn await_torn_down(&self) -> Outcome<()> {
        let teardown = self.sandbox.teardown();
        self.torn_down.begin(&self.threads, move || teardown.wait(LONG))
    }

    /// Waits for readiness.
    pub fn wait_ready(&self, timeout: Duration, cancel: Option<&Token>) -> Outcome<()> {
        let Some(token) = cancel else {
            return Ok(self.sandbox.wait_ready(timeout)?);
        };
        if let Some(outcome) = at_once(self.sandbox.wait_ready(Duration::ZERO)) {
            return outcome;
        }
        token.check()?;
        self.await_ready()?;
        self.ready.wait("the guest to be ready", Some(timeout), token)
    }

    /// Waits for the guest's end.
    pub fn wait(&self, timeout: Option<Duration>, cancel: Option<&Token>) -> Outcome<Exit> {
        let Some(token) = cancel else {
            return Ok(self.sandbox.wait(timeout)?);
        };
        if let Some(outcome) = at_once(self.sandbox.wait(Some(Duration::ZERO))) {
            return outcome;
        }
        token.check()?;
        self.await_exit()?;
        self.exit.wait("the guest's end", timeout, token)
    }

    /// Waits until the guest has confirmed what it was told when it was restored or forked.
    pub fn wait_confirmed(&self, timeout: Duration, cancel: Option<&Token>) -> Outcome<Uniqueness> {
        let Some(token) = cancel else {
            return Ok(renewed(&*self.sandbox)?.wait_confirmed(timeout)?);
        };
        if let Some(outcome) = at_once(renewed(&*self.sandbox)?.wait_confirmed(Duration::ZERO)) {
            return outcome;
        }
        token.check()?;
        let sandbox = Arc::clone(&self.sandbox);
        let wait = move || renewed(&*sandbox)?.wait_confirmed(LONG);
        self.confirmed.begin(&self.threads, wait)?;
        self.confirmed.wait("the guest's confirmation", Some(timeout), token)
    }

    /// Waits for the end of the teardown.
    pub fn wait_torn_down(&self, timeout: Duration, cancel: Option<&Token>) -> Outcome<()> {
        let teardown = self.sandbox.teardown();
        let Some(token) = cancel else {
            return Ok(teardown.wait(timeout)?);
        };
        if let Some(outcome) = at_once(teardown.wait(Duration::ZERO)) {
            return outcome;
        }
        token.check()?;
        self.await_torn_down()?;
        self.torn_down.wait("the teardown", Some(timeout), token)
    }
}

/// The ability of a restored or forked sandbox.
pub fn renewed(sandbox: &dyn Sandbox) -> sandbox::Result<&dyn Renewed> {
    sandbox.as_renewed().ok_or_else(|| {
        let context = "this sandbox was not restored or forked, so there is nothing that it could repeat";
        Error::new(ErrorKind::Unsupported, context)
    })
}

/// What a poll came to, unless it came to nothing yet.
fn at_once<T>(polled: sandbox::Result<T>) -> Option<Outcome<T>> {
    match polled {
        Err(error) if is_timeout(&error) => None,
        other => Some(other.map_err(Failure::Core)),
    }
}

/// Something that happens once, awaited by one thread for everybody who wants to know.
pub struct Once<T> {
    begun: AtomicBool,
    outcome: OnceLock<Result<T, Arc<Error>>>,
    listeners: Listeners,
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self {
            begun: AtomicBool::new(false),
            outcome: OnceLock::new(),
            listeners: Listeners::default(),
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Once<T> {
    /// Begins to await it by `wait`, unless that was begun before.
    pub fn begin(
        self: &Arc<Self>,
        threads: &Threads,
        wait: impl FnOnce() -> sandbox::Result<T> + Send + 'static,
    ) -> Outcome<()> {
        if self.begun.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let this = Arc::clone(self);
        let begun = threads.spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(wait)).unwrap_or_else(|_| Err(panicked()));
            // Set once: there is one thread.
            let _ = this.outcome.set(outcome.map_err(Arc::new));
            this.listeners.tell();
        });
        if begun.is_err() {
            self.begun.store(false, Ordering::SeqCst);
        }
        begun
    }

    /// What it came to, if it has happened.
    pub fn outcome(&self) -> Option<&Result<T, Arc<Error>>> {
        self.outcome.get()
    }

    /// Has `listener` told when it happens.
    pub fn listen(&self, listener: Weak<Listener>) {
        self.listeners.add(listener);
    }

    /// Waits for it, which was begun.
    pub fn wait(&self, what: &'static str, timeout: Option<Duration>, token: &Token) -> Outcome<T> {
        let wait = Wait {
            what,
            timeout,
            cancel: Some(token),
        };
        let outcome = wait.until(|listener| self.listen(listener), || self.outcome.get().cloned())?;
        outcome.map_err(Failure::Shared)
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::HostFailure, "the library caught a panic of its own")
}

/// Threads that end by themselves when what they work for is torn down.
#[derive(Default)]
pub struct Threads(Mutex<Vec<JoinHandle<()>>>);

impl Threads {
    /// Runs `work` on a thread that no signal is delivered to.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Outcome<()> {
        let _held = SignalsHeld::new();
        let thread = thread::Builder::new().name("sandbox-call".to_owned()).spawn(work);
        let thread = thread.map_err(|error| Failure::exhausted(format!("there is no thread to be had: {error}")))?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|thread| !thread.is_finished());
        all.push(thread);
        Ok(())
    }

    /// Waits for the end of all of them, except for the one that calls.
    pub fn join(&self) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in all {
            if thread.thread().id() != thread::current().id() {
                // Their work catches its panics.
                let _ = thread.join();
            }
        }
    }

    /// Makes `work`, whose result is thrown away by `give_back` if the token is triggered first. Without a token it is
    /// made by the caller's own thread.
    pub fn cancellable<T: Send + 'static>(
        &self,
        cancel: Option<&Token>,
        work: impl FnOnce() -> sandbox::Result<T> + Send + 'static,
        give_back: impl FnOnce(T) + Send + 'static,
    ) -> Outcome<T> {
        let Some(token) = cancel else {
            let _held = SignalsHeld::new();
            return Ok(work()?);
        };
        token.check()?;
        let desk = Arc::new(Desk::default());
        let side = Arc::clone(&desk);
        self.spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(panicked()));
            if let Some(Ok(unwanted)) = side.put(result) {
                give_back(unwanted);
            }
        })?;
        let wait = Wait {
            what: "the call",
            timeout: None,
            cancel: Some(token),
        };
        let taken = wait.until(|listener| desk.listeners.add(listener), || desk.take());
        match taken {
            Ok(result) => Ok(result?),
            // What came in the last moment is taken after all.
            Err(cancelled) => match desk.leave() {
                Some(result) => Ok(result?),
                None => Err(cancelled),
            },
        }
    }
}

/// Where a thread puts its result for a caller who may have left.
struct Desk<T> {
    state: Mutex<DeskState<T>>,
    listeners: Listeners,
}

enum DeskState<T> {
    Waiting,
    Full(sandbox::Result<T>),
    Left,
}

impl<T> Default for Desk<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(DeskState::Waiting),
            listeners: Listeners::default(),
        }
    }
}

impl<T> Desk<T> {
    /// Gives the result to the caller, or back if the caller has left.
    fn put(&self, result: sandbox::Result<T>) -> Option<sandbox::Result<T>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, DeskState::Left) {
            return Some(result);
        }
        *state = DeskState::Full(result);
        drop(state);
        self.listeners.tell();
        None
    }

    fn take(&self) -> Option<sandbox::Result<T>> {
        self.replace(DeskState::Waiting)
    }

    fn leave(&self) -> Option<sandbox::Result<T>> {
        self.replace(DeskState::Left)
    }

    fn replace(&self, next: DeskState<T>) -> Option<sandbox::Result<T>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, next) {
            DeskState::Full(result) => Some(result),
            _ => None,
        }
    }
}
