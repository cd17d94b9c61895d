//! Further commands in a running sandbox.

use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use sandbox::{Capability, Error, ErrorKind, ExecSession, Exit, Sandbox};

use crate::argument;
use crate::cancel::{Token, sandbox_cancel_t, token};
use crate::console::{read, sandbox_chunk};
use crate::entry::{Failure, Outcome, entry};
use crate::error::sandbox_error_t;
use crate::exit::{describe, sandbox_exit};
use crate::handle::{Kind, Table};
use crate::lifecycle::sandbox_t;
use crate::object::{Once, SANDBOXES, Threads};
use crate::wait::is_timeout;

/// A command that was started in a sandbox. The caller frees it with `sandbox_exec_free`.
pub type sandbox_exec_t = u64;

struct Session {
    session: Arc<dyn ExecSession>,
    exit: Arc<Once<Exit>>,
    threads: Threads,
}

static SESSIONS: Table<Session> = Table::new(Kind::Exec);

impl Session {
    fn wait(&self, timeout: Option<Duration>, cancel: Option<&Token>) -> Outcome<Exit> {
        let Some(token) = cancel else {
            return Ok(self.session.wait(timeout)?);
        };
        match self.session.wait(Some(Duration::ZERO)) {
            Err(error) if is_timeout(&error) => {}
            other => return Ok(other?),
        }
        token.check()?;
        let session = Arc::clone(&self.session);
        self.exit.begin(&self.threads, move || session.wait(None))?;
        self.exit.wait("the command's end", timeout, token)
    }
}

/// Starts a command inside a running sandbox: `arguments` is a NULL-terminated array whose first entry names the
/// program, `environment` a NULL-terminated array of `NAME=value`, or NULL. Needs `SANDBOX_CAPABILITY_EXEC`.
///
/// Thread-safety: any thread, any time. Takes as long as starting the command.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_exec(
    sandbox: sandbox_t,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    cancel: sandbox_cancel_t,
    exec: *mut sandbox_exec_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(exec, "exec")?;
            let arguments = argument::texts(arguments, "arguments")?;
            let environment = argument::texts(environment, "environment")?;
            if arguments.is_empty() {
                return Err(Failure::invalid_argument(
                    "arguments",
                    "has no entry; the first names the program",
                ));
            }
            let cancel = token(cancel)?;
            let session = SANDBOXES.with(sandbox, |object| {
                let sandbox = Arc::clone(&object.sandbox);
                let work = move || begin(&*sandbox, &arguments, &environment);
                object.threads.cancellable(cancel.as_deref(), work, drop)
            })?;
            *place = SESSIONS.insert(Session {
                session: session.into(),
                exit: Arc::default(),
                threads: Threads::default(),
            })?;
            Ok(())
        })
    }
}

fn begin(sandbox: &dyn Sandbox, arguments: &[String], environment: &[String]) -> sandbox::Result<Box<dyn ExecSession>> {
    match sandbox.as_exec() {
        Some(ability) => ability.exec(arguments, environment),
        None => {
            let context = format!("this sandbox has no capability {}", Capability::Exec.name());
            Err(Error::new(ErrorKind::Unsupported, context))
        }
    }
}

/// Reads the command's output, as `sandbox_console_read` reads a console's.
///
/// Thread-safety: any thread, any time. Blocks up to `timeout_ms`. Fails with `SANDBOX_ERROR_CANCELLED`.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_exec_read(
    exec: sandbox_exec_t,
    position: u64,
    buffer: *mut u8,
    capacity: usize,
    timeout_ms: i64,
    cancel: sandbox_cancel_t,
    chunk: *mut sandbox_chunk,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(chunk, "chunk")?;
            let buffer = argument::room(buffer, capacity, "buffer")?;
            let cancel = token(cancel)?;
            *place = SESSIONS.with(exec, |session| {
                read(
                    &session.session.output(),
                    position,
                    buffer,
                    timeout_ms,
                    cancel.as_deref(),
                )
            })?;
            Ok(())
        })
    }
}

/// Sends the `length` bytes at `bytes` to the command's input. `*taken` is how many were taken.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_exec_write(
    exec: sandbox_exec_t,
    bytes: *const u8,
    length: usize,
    taken: *mut usize,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(taken, "taken")?;
            let bytes = argument::bytes(bytes, length, "bytes")?;
            *place = SESSIONS.with(exec, |session| Ok(session.session.write(bytes)?))?;
            Ok(())
        })
    }
}

/// Waits for the command's end. `exit` may be NULL.
///
/// Thread-safety: any thread, any time. Blocks up to `timeout_ms`. Fails with `SANDBOX_ERROR_TIMEOUT`,
/// `SANDBOX_ERROR_CANCELLED`.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_exec_wait(
    exec: sandbox_exec_t,
    timeout_ms: i64,
    cancel: sandbox_cancel_t,
    exit: *mut sandbox_exit,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let (timeout, cancel) = (argument::timeout(timeout_ms), token(cancel)?);
            let ended = SESSIONS.with(exec, |session| session.wait(timeout, cancel.as_deref()))?;
            if let Some(place) = exit.as_mut() {
                *place = describe(&ended);
            }
            Ok(())
        })
    }
}

/// Frees an exec session. The command goes on, and ends with its sandbox at the latest. 0 is allowed and does nothing.
///
/// Thread-safety: any thread, any time. Does not block. Fails with `SANDBOX_ERROR_INVALID_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_exec_free(exec: sandbox_exec_t) -> i32 {
    // SAFETY: null is allowed.
    unsafe {
        entry(ptr::null_mut(), || match exec {
            0 => Ok(()),
            _ => SESSIONS.remove(exec).map(drop),
        })
    }
}
