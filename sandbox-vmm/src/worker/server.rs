//! The worker's process: its beginning, its calls, its reports.
//!
//! The main thread takes the embedder's calls one after another, and tells in between what happens to the guest. It is
//! woken for that by whoever makes the news, but for console output it waits a moment longer: a guest writes byte by
//! byte, and a message for each would cost it more than the byte.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sandbox_core::{ConsoleLog, Error, ErrorKind, Phase, Result, Sandbox};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::jail;
use super::launch::Descriptors;
use super::process::{CONTROL_FD, WORKER_ARGUMENT};
use super::program::{self, PROGRAM_NAME};
use super::protocol::channel::{Channel, ChannelError};
use super::protocol::{Answer, CONSOLE_PIECE, Call, Preparation, Report, Request, Stamp, WireError, sendable};
use super::workshop::{Built, Workshop};
use crate::backend::process_cpu_nanoseconds;
use crate::error::kind_of;
use crate::machine::host::KvmHost;
use crate::machine::kick::KickSignal;
use crate::memory::image::PartRecord;
use crate::memory::keep_pagemap_open;
use crate::sandbox::KvmSandbox;
use crate::sandbox::life::Life;
use crate::sandbox::shared::Shared;
use crate::snapshot::section::Identity;

/// How long console output waits for more of it.
const CONSOLE_DELAY: Duration = Duration::from_millis(1);
/// How long the embedder may take to read a report. One that takes longer is gone, or as good as gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// For the top of an embedder's `main`, before it starts threads or opens anything: if this process was started as a
/// worker, serves as one and never returns; otherwise notes that this program can be its own worker, and returns.
///
/// ```no_run
/// // The first statement of main.
/// sandbox_vmm::worker::run_if_worker();
/// ```
pub fn run_if_worker() {
    let mut arguments = std::env::args_os();
    let is_worker = arguments.next().is_some_and(|name| name == PROGRAM_NAME)
        && arguments.next().is_some_and(|argument| argument == WORKER_ARGUMENT);
    if !is_worker {
        return program::declare_own_worker();
    }
    let status = match serve() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{}", error.report());
            1
        }
    };
    // SAFETY: ends the process; nothing of it is left to be cleaned up that the kernel does not.
    unsafe { libc::_exit(status) };
}

/// Serves until the embedder closes the socket.
fn serve() -> Result<()> {
    let channel = begin()?;
    let (preparation, kvm) = match receive(&channel)? {
        Some((call, fds)) => match (call.request, fds.into_iter().next()) {
            (Request::Prepare(preparation), Some(kvm)) => (Numbered(call.id, *preparation), kvm),
            _ => return Err(protocol_error("it begins with something else than Prepare")),
        },
        None => return Ok(()),
    };
    let Numbered(
        id,
        Preparation {
            kvm: facts,
            jail: plan,
            shell,
        },
    ) = preparation;
    let host = KvmHost::from_parts(kvm, &facts).ok_or_else(|| protocol_error("its CPUID is too long"))?;
    // The kernel tells about this process's pages by a file that will be out of reach.
    if let Err(error) = keep_pagemap_open() {
        tracing::debug!(%error, "this worker cannot tell how much memory its guest touched");
    }
    let weaknesses = jail::enter(&plan)
        .map_err(|error| Error::new(ErrorKind::HostFailure, "a worker cannot give up its rights").with_source(error))?;
    host.make_spare_vm()?;
    let shared = Arc::new(Shared::new(host, KickSignal::claim(None)?, None));
    answer(&channel, id, Ok(Answer::Jailed(weaknesses)))?;
    if let Some(kind) = shell
        && let Err(error) = shared.library.shells.prepare(&shared.host, kind)
    {
        // Its sandbox makes its own, and says why it cannot.
        tracing::debug!(error = error.report(), "no VM made ahead");
    }
    let news =
        Arc::new(News::new().map_err(|error| Error::new(ErrorKind::HostExhausted, "no eventfd").with_source(error))?);
    let (id, built) = match receive(&channel)? {
        Some((Call { id, request }, fds)) => {
            let workshop = Workshop {
                shared,
                filters: plan.filters,
                fds: Descriptors::new(fds),
                news: Arc::clone(&news),
            };
            match request {
                Request::Launch(message) => (id, workshop.launch(*message)),
                Request::Revive(message) => (id, workshop.revive(*message)),
                _ => return Err(protocol_error("it goes on with something else than Launch or Revive")),
            }
        }
        None => return Ok(()),
    };
    match built {
        Ok(built) => {
            let made = built.answer();
            Server::new(channel, built, news).serve(id, made)
        }
        Err(error) => {
            answer(&channel, id, Err(error.into()))?;
            Ok(())
        }
    }
}

struct Numbered<T>(u32, T);

/// The first things: signals that were blocked on the way here, descriptors that were left open, a name.
fn begin() -> Result<Channel> {
    // SAFETY: plain system calls on integers and on structures that outlive them; this process has one thread.
    let is_socket = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
        libc::prctl(libc::PR_SET_NAME, c"sandbox-worker".as_ptr());
        let mut kind: libc::c_int = 0;
        let mut size = size_of::<libc::c_int>() as libc::socklen_t;
        let result = libc::getsockopt(
            CONTROL_FD,
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &raw mut size,
        );
        result == 0 && kind == libc::SOCK_SEQPACKET
    };
    match is_socket {
        // SAFETY: the descriptor is this process's from its beginning, and nobody else here uses it.
        true => Ok(Channel::from_fd(unsafe { OwnedFd::from_raw_fd(CONTROL_FD) })),
        false => Err(protocol_error(
            "its standard input is no control socket; it is started by the library alone",
        )),
    }
}

/// Wakes the main thread when there is something to tell.
pub(super) struct News {
    wake: EventFd,
    /// The main thread knows of console output, and will look at it.
    told: AtomicBool,
    /// The list of pages that the guest asked for is in its file, and nobody was told yet.
    list: AtomicBool,
}

impl News {
    fn new() -> io::Result<Self> {
        Ok(Self {
            wake: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            told: AtomicBool::new(false),
            list: AtomicBool::new(false),
        })
    }

    pub(super) fn tell(&self) {
        // A counter at its limit is readable all the same.
        let _ = self.wake.write(1);
    }

    /// The list of pages that the guest asked for is in its file.
    pub(super) fn list_is_left(&self) {
        self.list.store(true, Ordering::Release);
        self.tell();
    }

    /// Has output on `console`, and its end, told.
    pub(super) fn listen_to(self: &Arc<Self>, console: &Arc<ConsoleLog>) {
        let (news, log) = (Arc::clone(self), Arc::downgrade(console));
        let listener: Arc<sandbox_core::listeners::Listener> = Arc::new(move || {
            let is_closed = || log.upgrade().is_some_and(|log| log.is_closed());
            if !news.told.swap(true, Ordering::AcqRel) || is_closed() {
                news.tell();
            }
        });
        console.listen(Arc::downgrade(&listener));
        // It lives as long as this process.
        std::mem::forget(listener);
    }
}

/// The main thread, behind the beginning.
struct Server {
    channel: Channel,
    sandbox: KvmSandbox,
    life: Arc<Life>,
    news: Arc<News>,
    /// Processor time counts from the process's beginning.
    born: bool,
    /// Offset between this recorder's origin and `CLOCK_MONOTONIC`, and processor time before it.
    origin: (u64, u64),
    /// Position behind the console output that was told.
    told: u64,
    reached: Vec<Phase>,
    ready_told: bool,
    confirmed_told: bool,
    exit_told: bool,
}

impl Server {
    fn new(channel: Channel, built: Built, news: Arc<News>) -> Self {
        let Built {
            sandbox, life, born, ..
        } = built;
        let elapsed = sandbox.timeline().origin().elapsed().as_nanos() as u64;
        let cpu = sandbox.timeline().cpu_at(Phase::VcpusReady).unwrap_or(0);
        Self {
            origin: (
                monotonic_nanoseconds().saturating_sub(elapsed),
                process_cpu_nanoseconds().saturating_sub(cpu),
            ),
            channel,
            sandbox,
            life,
            news,
            born,
            told: 0,
            reached: Vec::new(),
            ready_told: false,
            confirmed_told: false,
            exit_told: false,
        }
    }

    /// Takes calls until the embedder closes the socket. `id` is the call that made the machine, and `made` its answer.
    fn serve(mut self, id: u32, made: Answer) -> Result<()> {
        self.tell_reached()?;
        answer(&self.channel, id, Ok(made))?;
        let mut console_due: Option<Instant> = None;
        loop {
            let (called, news) = self.wait(console_due)?;
            if news {
                // It may be empty already.
                let _ = self.news.wake.read();
                console_due.get_or_insert_with(|| Instant::now() + CONSOLE_DELAY);
            }
            if console_due.is_some_and(|due| due <= Instant::now()) || self.has_urgent_news() {
                console_due = None;
                self.tell_news()?;
            }
            if called {
                match receive(&self.channel)? {
                    Some((call, fds)) => self.take(call, Descriptors::new(fds))?,
                    None => return Ok(()),
                }
            }
        }
    }

    /// Waits for a call or news, or until console output is due.
    fn wait(&self, console_due: Option<Instant>) -> Result<(bool, bool)> {
        use std::os::fd::AsFd;
        let descriptor = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut polls = [
            descriptor(self.channel.as_fd().as_raw_fd()),
            descriptor(self.news.wake.as_raw_fd()),
        ];
        let timeout = console_due.map_or(-1, |due| {
            let left = due.saturating_duration_since(Instant::now());
            i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        // SAFETY: the array outlives the call, which is told its length.
        let result = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout) };
        let error = io::Error::last_os_error();
        if result < 0 && error.kind() != io::ErrorKind::Interrupted {
            return Err(Error::new(ErrorKind::HostFailure, "poll failed").with_source(error));
        }
        Ok((polls[0].revents != 0, polls[1].revents != 0))
    }

    fn take(&mut self, call: Call, fds: Descriptors) -> Result<()> {
        let done = |result: Result<()>| result.map(|()| Answer::Done);
        let result = match call.request {
            Request::Start => done(self.sandbox.start()),
            Request::Pause => {
                let paused = self.sandbox.pause();
                // What the guest wrote before it was paused is seen before the answer is.
                self.tell_console()?;
                done(paused)
            }
            Request::Resume => done(self.sandbox.resume()),
            Request::AskToEnd => Ok(Answer::Asked(self.life.press_power_button())),
            Request::Stop => done(self.sandbox.stop(Duration::ZERO).map(drop)),
            Request::Stats => self.sandbox.stats().map(|stats| Answer::Stats(Box::new(stats))),
            Request::ConsoleInput(bytes) => {
                let taken = self.sandbox.console_write(&bytes);
                taken.map(|taken| Answer::Taken(taken as u64))
            }
            Request::Snapshot { identity, base } => {
                // What the guest wrote before it stood still is seen before the answer is.
                let written = self.write_snapshot(Identity(identity), base.map(Identity), fds);
                self.tell_console()?;
                done(written)
            }
            Request::Kept(identity) => done(self.sandbox.keep(Identity(identity))),
            Request::Freeze => self.freeze(fds).map(Answer::Frozen),
            Request::Prepare(_) | Request::Launch(_) | Request::Revive(_) => {
                Err(protocol_error("it is a worker's beginning"))
            }
        };
        answer(&self.channel, call.id, result.map_err(WireError::from))?;
        self.tell_reached()
    }

    fn write_snapshot(&self, identity: Identity, base: Option<Identity>, mut fds: Descriptors) -> Result<()> {
        let (memory, state) = (File::from(fds.next()?), File::from(fds.next()?));
        let bytes = self.sandbox.store(identity, base, &memory)?;
        leave(&state, &bytes)
    }

    fn freeze(&self, mut fds: Descriptors) -> Result<Vec<PartRecord>> {
        let (memory, state) = (File::from(fds.next()?), File::from(fds.next()?));
        let (bytes, records) = self.sandbox.freeze(memory, fds.rest())?;
        leave(&state, &bytes)?;
        Ok(records)
    }

    /// What must not wait for more console output.
    fn has_urgent_news(&self) -> bool {
        (!self.exit_told && self.life.exit().get().is_some())
            || (!self.ready_told && self.life.ready().is_given())
            || (!self.confirmed_told && self.life.confirmation().is_given())
    }

    fn tell_news(&mut self) -> Result<()> {
        // Before the look: what comes after it is told anew.
        self.news.told.store(false, Ordering::Release);
        let exit = self.life.exit().get();
        let ready = self.life.ready().is_given();
        let confirmed = self.life.confirmation().given();
        self.tell_console()?;
        self.tell_reached()?;
        if ready && !self.ready_told {
            self.ready_told = true;
            send(&self.channel, &Report::Ready)?;
        }
        if self.news.list.swap(false, Ordering::AcqRel) {
            send(&self.channel, &Report::Recorded)?;
        }
        if let (false, Some(generation)) = (self.confirmed_told, confirmed) {
            self.confirmed_told = true;
            send(&self.channel, &Report::Confirmed(generation))?;
        }
        if let Some(exit) = exit
            && !self.exit_told
        {
            self.exit_told = true;
            send(&self.channel, &Report::Exited(sendable(exit)))?;
        }
        Ok(())
    }

    fn tell_console(&mut self) -> Result<()> {
        let chunk = self.sandbox.console().read_from(self.told);
        let mut start = chunk.start;
        for piece in chunk.bytes.chunks(CONSOLE_PIECE) {
            let bytes = piece.to_vec();
            send(&self.channel, &Report::Console { start, bytes })?;
            start += piece.len() as u64;
        }
        self.told = start;
        Ok(())
    }

    fn tell_reached(&mut self) -> Result<()> {
        let timeline = self.sandbox.timeline();
        let (monotonic, cpu_before) = self.origin;
        let before = if self.born { cpu_before } else { 0 };
        let new: Vec<Stamp> = timeline
            .entries()
            .iter()
            .filter(|entry| !self.reached.contains(&entry.phase))
            .map(|entry| Stamp {
                phase: entry.phase,
                monotonic: monotonic + entry.real,
                cpu: entry.cpu.map_or(0, |cpu| before + cpu),
            })
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        self.reached.extend(new.iter().map(|stamp| stamp.phase));
        send(&self.channel, &Report::Reached(new))
    }
}

/// The next call, or `None` when the embedder has closed the socket.
fn receive(channel: &Channel) -> Result<Option<(Call, Vec<OwnedFd>)>> {
    match channel.receive() {
        Ok(received) => Ok(Some(received)),
        Err(ChannelError::Closed) => Ok(None),
        Err(error) => Err(protocol_error(&error.to_string())),
    }
}

fn answer(channel: &Channel, id: u32, result: std::result::Result<Answer, WireError>) -> Result<()> {
    send(channel, &Report::Answer { id, result })
}

fn send(channel: &Channel, report: &Report) -> Result<()> {
    match channel.send(report, &[], PATIENCE) {
        // The embedder is gone; the next look at the socket ends this process.
        Ok(()) | Err(ChannelError::Closed) => Ok(()),
        Err(error) => Err(protocol_error(&error.to_string())),
    }
}

/// Leaves state in a file of the embedder's.
fn leave(file: &File, bytes: &[u8]) -> Result<()> {
    file.write_all_at(bytes, 0)
        .map_err(|error| Error::new(kind_of(&error), "the guest's state cannot be handed over").with_source(error))
}

fn protocol_error(what: &str) -> Error {
    Error::new(ErrorKind::HostFailure, format!("this worker cannot serve: {what}"))
}

/// `CLOCK_MONOTONIC`, in nanoseconds.
pub fn monotonic_nanoseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the result is written to a variable of this function.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
