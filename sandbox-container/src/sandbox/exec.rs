//! Further processes in a running container.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sandbox_core::gate::Gate;
use sandbox_core::{ConsoleLog, Error, ErrorKind, ExecSession, Exit, Result, State};

use super::life::{Console, Life};
use super::parts::Launch;
use crate::bundle;
use crate::error::host;
use crate::exit_log;
use crate::reaper::Status;
use crate::runtime::{Command, Flags, Kind};
use crate::streams::Prepared;

/// Output of a further process that is kept, in bytes.
const OUTPUT: usize = sandbox_core::limits::DEFAULT_CONSOLE_BYTES as usize;
const FIELD: &str = "arguments";

/// A further process.
struct Session {
    life: Arc<Life>,
    pid: u32,
    output: Arc<ConsoleLog>,
    console: Arc<Mutex<Option<Console>>>,
    exit: Arc<Gate<Exit>>,
}

/// Starts `arguments` in the container.
pub fn start(life: &Arc<Life>, arguments: &[String], environment: &[String]) -> Result<Box<dyn ExecSession>> {
    check(arguments, environment)?;
    let _verb = life.verbs();
    let state = life.state();
    if state != State::Running {
        let context = format!("cannot run a command in a sandbox that is {state}");
        return Err(Error::new(ErrorKind::WrongState, context));
    }
    let files = Files::new(life);
    let session = launch(life, &files, arguments, environment);
    // What the runtime has read, and what it has written.
    for file in [&files.process, &files.pid] {
        let _ = fs::remove_file(file);
    }
    session.map(|session| Box::new(session) as Box<dyn ExecSession>)
}

fn check(arguments: &[String], environment: &[String]) -> Result<()> {
    if arguments.first().is_none_or(String::is_empty) {
        return Err(Error::invalid(FIELD, "is empty; its first entry names the program"));
    }
    if arguments.iter().chain(environment).any(|word| word.contains('\0')) {
        return Err(Error::invalid(FIELD, "contains a NUL byte"));
    }
    match environment
        .iter()
        .find(|variable| !matches!(variable.find('='), Some(1..)))
    {
        Some(variable) => {
            let context = format!("{variable:?} is not of the form NAME=value");
            Err(Error::invalid("environment", context))
        }
        None => Ok(()),
    }
}

/// The files of one command.
struct Files {
    process: PathBuf,
    pid: PathBuf,
    log: PathBuf,
    exit_log: PathBuf,
}

impl Files {
    fn new(life: &Life) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| life.parts.folder.join(format!("exec-{number}-{name}"));
        Self {
            process: file("process.json"),
            pid: file("pid"),
            log: file("log"),
            exit_log: file("exit"),
        }
    }
}

fn launch(life: &Arc<Life>, files: &Files, arguments: &[String], environment: &[String]) -> Result<Session> {
    let parts = &life.parts;
    let process = bundle::further_process(&parts.process, arguments, environment, false);
    let document = serde_json::to_vec(&process).map_err(std::io::Error::from);
    let written = document.and_then(|document| fs::write(&files.process, document));
    written.map_err(host("cannot write the process's description"))?;
    let flags = Flags {
        log: files.log.clone(),
        exit_log: (parts.runtime.kind == Kind::Runsc).then(|| files.exit_log.clone()),
        ..parts.flags.clone()
    };
    let streams = Prepared::pipes(true, &parts.host.null).map_err(host("cannot make pipes"))?;
    let launched = parts.launch(Launch {
        flags: &flags,
        command: Command::Exec {
            process: &files.process,
            pid_file: Some(&files.pid),
            terminal: None,
        },
        verb: "run a command in",
        streams: &streams,
        pid_file: &files.pid,
    });
    let _ = fs::remove_file(&files.log);
    let (pid, adoption) = launched.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::new(ErrorKind::NotFound, error.context().to_owned()).with_field(FIELD),
        _ => error,
    })?;
    let output = Arc::new(ConsoleLog::new(OUTPUT));
    let (input, source) = streams
        .finish(Arc::clone(&output))
        .map_err(host("cannot use the process's streams"))?;
    let watched = parts.host.reactor.add(Arc::clone(&source) as _);
    let watched = watched.map_err(host("cannot wait for the process's output"))?;
    let console = Arc::new(Mutex::new(Some(Console { input, output: source })));
    let exit = Arc::new(Gate::default());
    let session = Session {
        life: Arc::clone(life),
        pid,
        output: Arc::clone(&output),
        console: Arc::clone(&console),
        exit: Arc::clone(&exit),
    };
    let (exit_log, host) = (flags.exit_log, Arc::clone(&parts.host));
    adoption.adopt(
        pid,
        Box::new(move |status| {
            let status = exact(status, pid, exit_log);
            let console = console.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(console) = console {
                console.output.drain();
            }
            host.reactor.remove(watched);
            exit.open(match status {
                Status::Code(code) => Exit::Code(code),
                Status::Signal(signal) => Exit::Signal(signal),
                Status::Lost => Exit::LostWorker("the reaper process is gone".to_owned()),
            });
            output.close();
        }),
    );
    Ok(session)
}

/// How the process ended, where the one that waited for it could not say it exactly.
fn exact(status: Status, pid: u32, log: Option<PathBuf>) -> Status {
    let Some(log) = log else { return status };
    let text = fs::read_to_string(&log).unwrap_or_default();
    let _ = fs::remove_file(&log);
    match status {
        Status::Code(_) => exit_log::further_process(&text, pid).unwrap_or(status),
        _ => status,
    }
}

impl ExecSession for Session {
    fn output(&self) -> Arc<ConsoleLog> {
        Arc::clone(&self.output)
    }

    fn write(&self, bytes: &[u8]) -> Result<usize> {
        match &*self.console.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(console) => console.input.write(bytes).map_err(host("the process takes no input")),
            None => Err(Error::new(ErrorKind::WrongState, "the process has ended")),
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<Exit> {
        self.exit
            .wait(timeout)
            .ok_or_else(|| Error::timeout("the command's end"))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nobody can have its output any more.
        if self.exit.get().is_none() {
            self.life.parts.reaper.signal(self.pid, libc::SIGKILL, false);
        }
    }
}
