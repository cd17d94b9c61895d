//! A guest's console.

use std::sync::Arc;

use sandbox::ConsoleLog;

use crate::argument;
use crate::cancel::{Token, sandbox_cancel_t, token};
use crate::code::SANDBOX_ERROR_TIMEOUT;
use crate::entry::{Failure, Outcome, entry};
use crate::error::sandbox_error_t;
use crate::lifecycle::sandbox_t;
use crate::object::SANDBOXES;
use crate::wait::Wait;

/// A piece of console output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sandbox_chunk {
    /// Position of the first byte, counted from the first that the guest ever wrote. Later than what was asked for if
    /// older output has been pushed out.
    pub start: u64,
    /// How many bytes there are. Read on at `start + length`.
    pub length: u64,
    /// 1 if no more can come behind these; else 0.
    pub closed: i32,
    /// 0.
    pub reserved: i32,
}

/// Reads console output from `position` on, up to `capacity` bytes, into `buffer`, and says in `*chunk` what it is.
/// Waits up to `timeout_ms` for a first byte or the end of the output: 0 does not wait, and when the time is over, the
/// chunk is empty, which is no failure. Any state.
///
/// Thread-safety: any thread, any time. Blocks up to `timeout_ms`. Fails with `SANDBOX_ERROR_CANCELLED`.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_console_read(
    sandbox: sandbox_t,
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
            *place = SANDBOXES.with(sandbox, |object| {
                read(
                    &object.sandbox.console(),
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

/// Reads a log, that of a console or of an exec session.
pub fn read(
    log: &Arc<ConsoleLog>,
    position: u64,
    buffer: &mut [u8],
    timeout_ms: i64,
    cancel: Option<&Token>,
) -> Outcome<sandbox_chunk> {
    let wait = Wait {
        what: "output",
        timeout: argument::timeout(timeout_ms),
        cancel,
    };
    let listen = |listener| log.listen(listener);
    let read = wait.until(listen, || {
        let chunk = take(log, position, buffer);
        (chunk.length > 0 || chunk.closed != 0 || buffer.is_empty()).then_some(chunk)
    });
    match read {
        Err(Failure::Core(error)) if error.kind().code() == SANDBOX_ERROR_TIMEOUT => Ok(take(log, position, buffer)),
        other => other,
    }
}

fn take(log: &ConsoleLog, position: u64, buffer: &mut [u8]) -> sandbox_chunk {
    let mut chunk = log.read_from(position);
    let all = chunk.bytes.len();
    chunk.bytes.truncate(buffer.len());
    buffer[..chunk.bytes.len()].copy_from_slice(&chunk.bytes);
    sandbox_chunk {
        start: chunk.start,
        length: chunk.bytes.len() as u64,
        closed: i32::from(chunk.closed && chunk.bytes.len() == all),
        reserved: 0,
    }
}

/// Sends the `length` bytes at `bytes` to the guest's console. `*taken` is how many were taken: a guest that does not
/// read has only room for so many. Running or paused; needs `SANDBOX_CAPABILITY_CONSOLE_INPUT`.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_console_write(
    sandbox: sandbox_t,
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
            *place = SANDBOXES.with(sandbox, |object| Ok(object.sandbox.console_write(bytes)?))?;
            Ok(())
        })
    }
}
