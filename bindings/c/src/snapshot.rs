//! Snapshots, and clones in memory.

use std::ffi::c_char;
use std::path::PathBuf;
use std::sync::Arc;

use sandbox::snapshot::Given;
use sandbox::{Capability, Error, ErrorKind, RestoreOptions, Restored, Sandbox, SnapshotOptions, Uniqueness};

use crate::argument;
use crate::cancel::{sandbox_cancel_t, token};
use crate::entry::{Failure, Outcome, entry};
use crate::error::sandbox_error_t;
use crate::lifecycle::sandbox_t;
use crate::object::{SANDBOXES, SandboxObject, renewed};
use crate::runtime::{RUNTIMES, sandbox_runtime_t};
use crate::text::{self, sandbox_text_t};

/// Given: nothing; the clone repeats the original.
pub const SANDBOX_GIVEN_NOTHING: i32 = 0;
/// Given: the host did it, whatever the guest does.
pub const SANDBOX_GIVEN_APPLIED: i32 = 1;
/// Given: the guest was told.
pub const SANDBOX_GIVEN_NOTIFIED: i32 = 2;
/// Given: the guest said that it did it.
pub const SANDBOX_GIVEN_GUEST_CONFIRMED: i32 = 3;

/// Most clones that one call makes.
const MAX_CLONES: u32 = 1 << 16;

/// What a restored or forked sandbox can rely on being its own, one of `SANDBOX_GIVEN_…` each.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sandbox_uniqueness {
    /// Random numbers.
    pub entropy: i32,
    /// Machine and instance identifiers.
    pub ids: i32,
    /// Wall-clock time.
    pub clock: i32,
    /// Link and network addresses.
    pub address: i32,
}

impl From<Uniqueness> for sandbox_uniqueness {
    fn from(uniqueness: Uniqueness) -> Self {
        let number = |given| match given {
            Given::NotGiven => SANDBOX_GIVEN_NOTHING,
            Given::Applied => SANDBOX_GIVEN_APPLIED,
            Given::Notified => SANDBOX_GIVEN_NOTIFIED,
            Given::GuestConfirmed => SANDBOX_GIVEN_GUEST_CONFIRMED,
        };
        Self {
            entropy: number(uniqueness.entropy),
            ids: number(uniqueness.ids),
            clock: number(uniqueness.clock),
            address: number(uniqueness.address),
        }
    }
}

/// Writes a snapshot into the new folder `directory`. Running or paused. A failure leaves no folder and the sandbox as
/// it was.
///
/// `options` is a JSON object, or NULL for the defaults: `"after"`: `"resume"` (the default: as it was before) or
/// `"stop"`; `"base"`: the snapshot folder relative to which only changes are stored; `"digest"`: true to store what
/// `"verify": "full"` needs. `*manifest`, unless `manifest` is NULL, is the snapshot's manifest as JSON, which the
/// caller frees with `sandbox_text_free`.
///
/// Thread-safety: any thread, any time. Takes as long as writing the guest's memory. A snapshot that was begun when the
/// call is cancelled is finished.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_snapshot(
    sandbox: sandbox_t,
    directory: *const c_char,
    options: *const c_char,
    cancel: sandbox_cancel_t,
    manifest: *mut sandbox_text_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let directory = PathBuf::from(argument::text(directory, "directory")?);
            let options: SnapshotOptions = argument::options(options, "options")?;
            let cancel = token(cancel)?;
            let written = SANDBOXES.with(sandbox, |object| {
                let sandbox = Arc::clone(&object.sandbox);
                let work = move || sandbox.snapshot(&directory, &options);
                object.threads.cancellable(cancel.as_deref(), work, drop)
            })?;
            if let Some(place) = manifest.as_mut() {
                *place = text::hand_out_json(&written)?;
            }
            Ok(())
        })
    }
}

/// Makes a sandbox from the snapshot in the folder `directory`, paused unless the options say start. On failure nothing
/// is left behind.
///
/// `options` is a JSON object, or NULL for the defaults:
///
/// - `"memory"`: `"cow"` (the default), `"eager"` or `"uffd"`.
/// - `"verify"`: `"size"` (the default) or `"full"`.
/// - `"start"`: true to run at once.
/// - `"keep_identity"`: true to give the guest nothing of its own; for one that goes on in the original's place.
/// - `"overrides"`: host resources that differ from the original's: `"disks"` and `"networks"` by id, `"vsock_path"`,
///   `"limits"`.
///
/// `uniqueness`, what the sandbox can rely on being its own by now, may be NULL.
///
/// Thread-safety: any thread, any time. Takes as long as reading the snapshot.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_restore(
    runtime: sandbox_runtime_t,
    directory: *const c_char,
    options: *const c_char,
    cancel: sandbox_cancel_t,
    sandbox: *mut sandbox_t,
    uniqueness: *mut sandbox_uniqueness,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(sandbox, "sandbox")?;
            let directory = PathBuf::from(argument::text(directory, "directory")?);
            let options: RestoreOptions = argument::options(options, "options")?;
            let cancel = token(cancel)?;
            let restored = RUNTIMES.with(runtime, |object| {
                let backends = Arc::clone(&object.runtime);
                let work = move || backends.restore(&directory, &options);
                object.threads.cancellable(cancel.as_deref(), work, drop)
            })?;
            *place = SANDBOXES.insert(SandboxObject::new(restored.sandbox))?;
            if let Some(place) = uniqueness.as_mut() {
                *place = restored.uniqueness.into();
            }
            Ok(())
        })
    }
}

/// Makes `count` clones of a running or paused sandbox in memory, each with the same options, which are those of
/// `sandbox_restore`. The sandbox goes on as it was. Either all clones are made or none.
///
/// `clones` has room for `count` handles, each of which the caller frees with `sandbox_free`; `uniqueness` has room for
/// `count` entries, or is NULL.
///
/// Thread-safety: any thread, any time. Takes about a millisecond per clone. Fails with `SANDBOX_ERROR_UNSUPPORTED`
/// without `SANDBOX_CAPABILITY_FORK`.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_fork(
    sandbox: sandbox_t,
    count: u32,
    options: *const c_char,
    cancel: sandbox_cancel_t,
    clones: *mut sandbox_t,
    uniqueness: *mut sandbox_uniqueness,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            if count == 0 || count > MAX_CLONES {
                let message = format!("is {count}; give 1 to {MAX_CLONES}");
                return Err(Failure::invalid_argument("count", message));
            }
            let clones = argument::room(clones, count as usize, "clones")?;
            let options: RestoreOptions = argument::options(options, "options")?;
            let cancel = token(cancel)?;
            let made = SANDBOXES.with(sandbox, |object| {
                let sandbox = Arc::clone(&object.sandbox);
                let work = move || fork(&*sandbox, count, &options);
                object.threads.cancellable(cancel.as_deref(), work, drop)
            })?;
            let given: Vec<sandbox_uniqueness> = made.iter().map(|clone| clone.uniqueness.into()).collect();
            let handles = insert_all(made)?;
            clones.copy_from_slice(&handles);
            if !uniqueness.is_null() {
                argument::room(uniqueness, count as usize, "uniqueness")?.copy_from_slice(&given);
            }
            Ok(())
        })
    }
}

fn fork(sandbox: &dyn Sandbox, count: u32, options: &RestoreOptions) -> sandbox::Result<Vec<Restored>> {
    let Some(ability) = sandbox.as_fork() else {
        let context = format!("this sandbox has no capability {}", Capability::Fork.name());
        return Err(Error::new(ErrorKind::Unsupported, context));
    };
    let made = ability.fork(count, options)?;
    match made.len() == count as usize {
        true => Ok(made),
        false => Err(Error::new(
            ErrorKind::HostFailure,
            "the backend made another number of clones",
        )),
    }
}

/// Gives all clones handles, or none.
fn insert_all(clones: Vec<Restored>) -> Outcome<Vec<sandbox_t>> {
    let mut handles = Vec::with_capacity(clones.len());
    for clone in clones {
        match SANDBOXES.insert(SandboxObject::new(clone.sandbox)) {
            Ok(handle) => handles.push(handle),
            Err(failure) => {
                for handle in handles {
                    // Dropping the object tears it down.
                    let _ = SANDBOXES.remove(handle);
                }
                return Err(failure);
            }
        }
    }
    Ok(handles)
}

/// Reads what a restored or forked sandbox can rely on being its own by now: what its guest was told becomes
/// `SANDBOX_GIVEN_GUEST_CONFIRMED` when the guest says so. Any state.
///
/// Thread-safety: any thread, any time. Does not block. Fails with `SANDBOX_ERROR_UNSUPPORTED` for a sandbox that was
/// created.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_uniqueness_read(
    sandbox: sandbox_t,
    uniqueness: *mut sandbox_uniqueness,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(uniqueness, "uniqueness")?;
            *place = SANDBOXES.with(sandbox, |object| Ok(renewed(&*object.sandbox)?.uniqueness().into()))?;
            Ok(())
        })
    }
}

/// Waits until the guest of a restored or forked sandbox has confirmed what it was told. A guest that is paused
/// confirms nothing, nor does one of a family that has no way to. `uniqueness` may be NULL.
///
/// Thread-safety: any thread, any time. Blocks up to `timeout_ms`. Fails with `SANDBOX_ERROR_GUEST_ENDED`,
/// `SANDBOX_ERROR_TIMEOUT`, `SANDBOX_ERROR_CANCELLED`, and `SANDBOX_ERROR_UNSUPPORTED` for a sandbox that was created.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_wait_confirmed(
    sandbox: sandbox_t,
    timeout_ms: i64,
    cancel: sandbox_cancel_t,
    uniqueness: *mut sandbox_uniqueness,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let (timeout, cancel) = (argument::long_timeout(timeout_ms), token(cancel)?);
            let confirmed = SANDBOXES.with(sandbox, |object| object.wait_confirmed(timeout, cancel.as_deref()))?;
            if let Some(place) = uniqueness.as_mut() {
                *place = confirmed.into();
            }
            Ok(())
        })
    }
}
