//! How a guest ends.

use sandbox::Exit;
use serde_json::json;

use crate::argument;
use crate::entry::entry;
use crate::error::sandbox_error_t;
use crate::lifecycle::sandbox_t;
use crate::object::SANDBOXES;
use crate::text::{self, sandbox_text_t};

/// Exit: the init process, or the guest by its debug-exit port, gave an exit code, which is the value.
pub const SANDBOX_EXIT_CODE: i32 = 1;
/// Exit: the init process was ended by a signal that the SDK did not send; the value is its number.
pub const SANDBOX_EXIT_SIGNAL: i32 = 2;
/// Exit: the guest powered itself off.
pub const SANDBOX_EXIT_POWER_OFF: i32 = 3;
/// Exit: the guest asked for a reset.
pub const SANDBOX_EXIT_RESET: i32 = 4;
/// Exit: the guest's processor shut down on a fault that it could not handle.
pub const SANDBOX_EXIT_TRIPLE_FAULT: i32 = 5;
/// Exit: the guest did what no guest may do, or the host could not execute its code.
pub const SANDBOX_EXIT_GUEST_FAULT: i32 = 6;
/// Exit: the guest went beyond its memory.
pub const SANDBOX_EXIT_OUT_OF_MEMORY: i32 = 7;
/// Exit: the sandbox's deadline passed.
pub const SANDBOX_EXIT_DEADLINE: i32 = 8;
/// Exit: the embedder killed or stopped it.
pub const SANDBOX_EXIT_KILLED: i32 = 9;
/// Exit: the process that held it is gone.
pub const SANDBOX_EXIT_LOST_WORKER: i32 = 10;
/// Exit: a way to end that this version of the interface has no number for; the report tells it.
pub const SANDBOX_EXIT_OTHER: i32 = 0;

/// How a guest ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct sandbox_exit {
    /// One of `SANDBOX_EXIT_…`.
    pub kind: i32,
    /// The exit code or the signal's number; else 0.
    pub value: i32,
}

/// An exit in numbers.
pub fn describe(exit: &Exit) -> sandbox_exit {
    let (kind, value) = match exit {
        Exit::Code(code) => (SANDBOX_EXIT_CODE, *code),
        Exit::Signal(signal) => (SANDBOX_EXIT_SIGNAL, *signal),
        Exit::PowerOff => (SANDBOX_EXIT_POWER_OFF, 0),
        Exit::Reset => (SANDBOX_EXIT_RESET, 0),
        Exit::TripleFault(_) => (SANDBOX_EXIT_TRIPLE_FAULT, 0),
        Exit::GuestFault(_) => (SANDBOX_EXIT_GUEST_FAULT, 0),
        Exit::OutOfMemory => (SANDBOX_EXIT_OUT_OF_MEMORY, 0),
        Exit::Deadline => (SANDBOX_EXIT_DEADLINE, 0),
        Exit::Killed => (SANDBOX_EXIT_KILLED, 0),
        Exit::LostWorker(_) => (SANDBOX_EXIT_LOST_WORKER, 0),
        _ => (SANDBOX_EXIT_OTHER, 0),
    };
    sandbox_exit { kind, value }
}

/// All that is known of a guest's end, as a JSON object: `"text"`, a sentence; `"success"`, whether the guest ended by
/// itself and said that all is well; `"exit"`, with registers, instruction bytes and the last lines of the console where
/// it was a fault. The caller frees `*report` with `sandbox_text_free`.
///
/// Thread-safety: any thread, any time. Does not block. Fails with `SANDBOX_ERROR_TIMEOUT` if the guest has not ended.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_exit_report(
    sandbox: sandbox_t,
    report: *mut sandbox_text_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(report, "report")?;
            let exit = SANDBOXES.with(sandbox, |object| {
                Ok(object.sandbox.wait(Some(std::time::Duration::ZERO))?)
            })?;
            let report = json!({"text": exit.to_string(), "success": exit.is_success(), "exit": exit});
            *place = text::hand_out(&report.to_string())?;
            Ok(())
        })
    }
}
