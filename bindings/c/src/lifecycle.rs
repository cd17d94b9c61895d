//! The verbs of a sandbox's life.

use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use sandbox::{Capability, State};

use crate::argument;
use crate::cancel::{sandbox_cancel_t, token};
use crate::entry::{Outcome, entry};
use crate::error::sandbox_error_t;
use crate::events;
use crate::exit::{describe, sandbox_exit};
use crate::object::{SANDBOXES, SandboxObject};
use crate::process::SignalsHeld;
use crate::runtime::{RUNTIMES, sandbox_runtime_t};
use crate::spec::{sandbox_spec_t, spec_of};
use crate::text::{self, sandbox_text_t};

/// A sandbox. The caller frees it with `sandbox_free`.
///
/// What its present state does not allow fails with `SANDBOX_ERROR_WRONG_STATE` and changes nothing.
pub type sandbox_t = u64;

/// State: all resources are made; no guest code has run.
pub const SANDBOX_STATE_CREATED: i32 = 1;
/// State: `sandbox_start` is under way.
pub const SANDBOX_STATE_STARTING: i32 = 2;
/// State: guest code runs, or may run whenever it has something to do.
pub const SANDBOX_STATE_RUNNING: i32 = 3;
/// State: no guest code runs; everything is kept.
pub const SANDBOX_STATE_PAUSED: i32 = 4;
/// State: the guest has ended and its exit status is known. Resources are held until teardown.
pub const SANDBOX_STATE_STOPPED: i32 = 5;
/// State: the sandbox broke; only teardown is left.
pub const SANDBOX_STATE_FAILED: i32 = 6;
/// State: torn down, or being torn down. Exit status, timeline and console can still be read.
pub const SANDBOX_STATE_TORN_DOWN: i32 = 7;

/// Capability: `sandbox_pause` and `sandbox_resume`.
pub const SANDBOX_CAPABILITY_PAUSE: u64 = 1 << 0;
/// Capability: `sandbox_snapshot`, and `sandbox_restore` of it.
pub const SANDBOX_CAPABILITY_SNAPSHOT: u64 = 1 << 1;
/// Capability: a snapshot after which the sandbox goes on as if nothing had happened.
pub const SANDBOX_CAPABILITY_SNAPSHOT_RESUME: u64 = 1 << 2;
/// Capability: a restored sandbox can be held paused.
pub const SANDBOX_CAPABILITY_RESTORE_PAUSED: u64 = 1 << 3;
/// Capability: `sandbox_fork`.
pub const SANDBOX_CAPABILITY_FORK: u64 = 1 << 4;
/// Capability: `sandbox_exec`.
pub const SANDBOX_CAPABILITY_EXEC: u64 = 1 << 5;
/// Capability: `sandbox_console_write`.
pub const SANDBOX_CAPABILITY_CONSOLE_INPUT: u64 = 1 << 6;
/// Capability: `limits.cpu_quota` holds.
pub const SANDBOX_CAPABILITY_LIMIT_CPU_QUOTA: u64 = 1 << 7;
/// Capability: the guest cannot use more memory than the spec says.
pub const SANDBOX_CAPABILITY_LIMIT_MEMORY: u64 = 1 << 8;
/// Capability: `limits.pids` holds.
pub const SANDBOX_CAPABILITY_LIMIT_PIDS: u64 = 1 << 9;
/// Capability: rate limits of disks hold.
pub const SANDBOX_CAPABILITY_LIMIT_DISK: u64 = 1 << 10;
/// Capability: rate limits of networks hold.
pub const SANDBOX_CAPABILITY_LIMIT_NETWORK: u64 = 1 << 11;
/// Capability: `limits.deadline_ms` holds.
pub const SANDBOX_CAPABILITY_LIMIT_DEADLINE: u64 = 1 << 12;
/// Capability: `limits.console_bytes` holds.
pub const SANDBOX_CAPABILITY_LIMIT_CONSOLE: u64 = 1 << 13;

/// How long `sandbox_free` waits for a teardown: longer than any takes that comes to an end.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(60);

fn state_number(state: State) -> i32 {
    match state {
        State::Created => SANDBOX_STATE_CREATED,
        State::Starting => SANDBOX_STATE_STARTING,
        State::Running => SANDBOX_STATE_RUNNING,
        State::Paused => SANDBOX_STATE_PAUSED,
        State::Stopped => SANDBOX_STATE_STOPPED,
        State::TornDown => SANDBOX_STATE_TORN_DOWN,
        _ => SANDBOX_STATE_FAILED,
    }
}

/// Makes the sandbox that `spec` describes, in the state created: everything is opened, checked and set up, and no
/// guest code runs. Descriptors that the spec names stay the caller's; they are duplicated. The spec stays the
/// caller's. On failure nothing is left behind.
///
/// Thread-safety: any thread, any time. Takes from half a millisecond to as long as reading the guest's files takes.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_create(
    runtime: sandbox_runtime_t,
    spec: sandbox_spec_t,
    cancel: sandbox_cancel_t,
    sandbox: *mut sandbox_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(sandbox, "sandbox")?;
            let (spec, cancel) = (spec_of(spec)?, token(cancel)?);
            *place = RUNTIMES.with(runtime, |object| {
                let backends = Arc::clone(&object.runtime);
                let work = move || backends.create(&spec);
                let sandbox = object.threads.cancellable(cancel.as_deref(), work, drop)?;
                SANDBOXES.insert(SandboxObject::new(sandbox))
            })?;
            Ok(())
        })
    }
}

/// Its name: the spec's `id`, or one that was made up. The caller frees `*id` with `sandbox_text_free`.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_id(sandbox: sandbox_t, id: *mut sandbox_text_t, error: *mut sandbox_error_t) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(id, "id")?;
            *place = SANDBOXES.with(sandbox, |object| text::hand_out(object.sandbox.id()))?;
            Ok(())
        })
    }
}

/// Where it stands, one of `SANDBOX_STATE_…`. Any state.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_state(sandbox: sandbox_t, state: *mut i32, error: *mut sandbox_error_t) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(state, "state")?;
            *place = SANDBOXES.with(sandbox, |object| Ok(state_number(object.sandbox.state())))?;
            Ok(())
        })
    }
}

/// What this sandbox can do, or be held to: a sum of `SANDBOX_CAPABILITY_…`. Any state.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_capabilities(
    sandbox: sandbox_t,
    capabilities: *mut u64,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(capabilities, "capabilities")?;
            *place = SANDBOXES.with(sandbox, |object| {
                let bit = |capability: &Capability| 1 << capability.number();
                Ok(object.sandbox.capabilities().iter().map(bit).sum())
            })?;
            Ok(())
        })
    }
}

/// Runs the guest: created → running. Returns when it is on its way; a guest that ends at once may be stopped already.
/// A failure leaves the state failed.
///
/// Thread-safety: any thread, any time. Takes microseconds, and for a container as long as its runtime takes, which has
/// a deadline. A start that is cancelled goes on behind.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_start(
    sandbox: sandbox_t,
    cancel: sandbox_cancel_t,
    error: *mut sandbox_error_t,
) -> i32 {
    let work = |object: &SandboxObject| {
        object.sandbox.start()?;
        Ok(events::started(object))
    };
    // SAFETY: the caller's promise.
    unsafe { entry(error, || verb(sandbox, cancel, work)) }
}

/// Does a verb, behind a caller who cancels it if need be. What it returns comes after the verb itself is done.
fn verb(
    sandbox: sandbox_t,
    cancel: sandbox_cancel_t,
    work: impl FnOnce(&SandboxObject) -> sandbox::Result<Outcome<()>> + Send + 'static,
) -> Outcome<()> {
    let cancel = token(cancel)?;
    SANDBOXES.with(sandbox, |object| {
        let kept = Arc::clone(object);
        object
            .threads
            .cancellable(cancel.as_deref(), move || work(&kept), drop)?
    })
}

/// Waits for the spec's readiness check; at once true if it has none or has passed before. Running or paused.
///
/// Fails with `SANDBOX_ERROR_GUEST_ENDED` if the guest ended first, `SANDBOX_ERROR_TIMEOUT` when the time is over, and
/// `SANDBOX_ERROR_CANCELLED`; none changes the state.
///
/// Thread-safety: any thread, any time. Blocks up to `timeout_ms`.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_wait_ready(
    sandbox: sandbox_t,
    timeout_ms: i64,
    cancel: sandbox_cancel_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let (timeout, cancel) = (argument::long_timeout(timeout_ms), token(cancel)?);
            SANDBOXES.with(sandbox, |object| object.wait_ready(timeout, cancel.as_deref()))
        })
    }
}

/// Holds the guest: running → paused. When it returns, no guest instruction executes until `sandbox_resume`.
///
/// Thread-safety: any thread, any time. Takes microseconds, and for a container as long as its runtime takes, which has
/// a deadline. A pause that is cancelled goes on behind.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_pause(
    sandbox: sandbox_t,
    cancel: sandbox_cancel_t,
    error: *mut sandbox_error_t,
) -> i32 {
    let work = |object: &SandboxObject| object.sandbox.pause().map(Ok);
    // SAFETY: the caller's promise.
    unsafe { entry(error, || verb(sandbox, cancel, work)) }
}

/// Goes on: paused → running.
///
/// Thread-safety: any thread, any time. Takes microseconds, and for a container as long as its runtime takes, which has
/// a deadline. A resumption that is cancelled goes on behind.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_resume(
    sandbox: sandbox_t,
    cancel: sandbox_cancel_t,
    error: *mut sandbox_error_t,
) -> i32 {
    let work = |object: &SandboxObject| {
        object.sandbox.resume()?;
        Ok(events::started(object))
    };
    // SAFETY: the caller's promise.
    unsafe { entry(error, || verb(sandbox, cancel, work)) }
}

/// Waits for the end. Any state: the exit status is kept for whoever asks, however late and however often. A sandbox
/// torn down before its guest ended has `SANDBOX_EXIT_KILLED`. `exit` may be NULL.
///
/// Thread-safety: any thread, any time. Blocks up to `timeout_ms`. Fails with `SANDBOX_ERROR_TIMEOUT`,
/// `SANDBOX_ERROR_CANCELLED`.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_wait(
    sandbox: sandbox_t,
    timeout_ms: i64,
    cancel: sandbox_cancel_t,
    exit: *mut sandbox_exit,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let (timeout, cancel) = (argument::timeout(timeout_ms), token(cancel)?);
            let ended = SANDBOXES.with(sandbox, |object| object.wait(timeout, cancel.as_deref()))?;
            if let Some(place) = exit.as_mut() {
                *place = describe(&ended);
            }
            Ok(())
        })
    }
}

/// Ends the guest: asks it to where it can be asked, waits up to `grace_ms`, then kills it. Leaves the state stopped.
/// Created, running, paused, or stopped already. `exit` may be NULL.
///
/// Thread-safety: any thread, any time. Blocks up to `grace_ms`. A stop that is cancelled goes on behind.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_stop(
    sandbox: sandbox_t,
    grace_ms: i64,
    cancel: sandbox_cancel_t,
    exit: *mut sandbox_exit,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let (grace, cancel) = (argument::long_timeout(grace_ms), token(cancel)?);
            let ended = SANDBOXES.with(sandbox, |object| {
                let sandbox = Arc::clone(&object.sandbox);
                object
                    .threads
                    .cancellable(cancel.as_deref(), move || sandbox.stop(grace), drop)
            })?;
            if let Some(place) = exit.as_mut() {
                *place = describe(&ended);
            }
            Ok(())
        })
    }
}

/// Gives everything back: any state → torn down. Kills the guest if it runs. Returns at once; what the kernel takes
/// its time with goes on behind, and `sandbox_wait_torn_down` awaits it. Again does nothing.
///
/// Thread-safety: any thread, any time. Takes microseconds.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_teardown(sandbox: sandbox_t, error: *mut sandbox_error_t) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            SANDBOXES.with(sandbox, |object| {
                {
                    let _held = SignalsHeld::new();
                    let _ = object.sandbox.teardown();
                }
                events::torn_down(object)
            })
        })
    }
}

/// Tears down if that was not asked for yet, and waits until every thread is joined, every descriptor closed and all
/// memory returned.
///
/// Thread-safety: any thread, any time. Blocks up to `timeout_ms`; the teardown goes on when the time is over or the
/// call is cancelled.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_wait_torn_down(
    sandbox: sandbox_t,
    timeout_ms: i64,
    cancel: sandbox_cancel_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let (timeout, cancel) = (argument::long_timeout(timeout_ms), token(cancel)?);
            SANDBOXES.with(sandbox, |object| {
                let _held = SignalsHeld::new();
                object.wait_torn_down(timeout, cancel.as_deref())
            })
        })
    }
}

/// Frees a sandbox: tears it down if that was not done, and returns when nothing of it is left. Calls that are under
/// way on other threads come back as they do when a sandbox is torn down. 0 is allowed and does nothing.
///
/// Thread-safety: any thread, any time. Blocks while the kernel lets go, some 10 milliseconds, unless
/// `sandbox_wait_torn_down` has waited for that. Fails with `SANDBOX_ERROR_INVALID_HANDLE`, and with
/// `SANDBOX_ERROR_TIMEOUT` when the teardown goes on after a minute; the handle is freed then too.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_free(sandbox: sandbox_t) -> i32 {
    // SAFETY: null is allowed.
    unsafe { entry(ptr::null_mut(), || free(sandbox)) }
}

fn free(sandbox: sandbox_t) -> Outcome<()> {
    if sandbox == 0 {
        return Ok(());
    }
    let object = SANDBOXES.remove(sandbox)?;
    events::freed(sandbox);
    let _held = SignalsHeld::new();
    object.sandbox.teardown().wait(TEARDOWN_LIMIT)?;
    object.threads.join();
    Ok(())
}

#[cfg(test)]
mod tests {
    use sandbox::Capability;

    #[test]
    fn every_capability_has_its_bit_in_the_header() {
        let source = include_str!("lifecycle.rs");
        for capability in Capability::ALL {
            let name = capability.name().to_uppercase();
            let line = format!(
                "pub const SANDBOX_CAPABILITY_{name}: u64 = 1 << {};",
                capability.number()
            );
            assert!(source.contains(&line), "missing: {line}");
        }
    }
}
