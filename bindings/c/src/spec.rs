//! What a sandbox is described by.

use std::ffi::c_char;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbox::SandboxSpec;
use serde_json::{Map, Value};

use crate::argument;
use crate::entry::{Failure, Outcome, entry};
use crate::error::sandbox_error_t;
use crate::handle::{Kind, Table};
use crate::path;
use crate::text::{self, sandbox_text_t};

/// A sandbox's description: one JSON document, whose fields `sandbox-spec.json` lists. It is read as a whole or set
/// field by field, and can be used for any number of sandboxes.
pub type sandbox_spec_t = u64;

struct Document {
    value: Value,
    /// The spec that the document describes, once it was checked.
    checked: Option<Arc<SandboxSpec>>,
}

impl Document {
    fn check(&mut self) -> Outcome<Arc<SandboxSpec>> {
        if let Some(spec) = &self.checked {
            return Ok(Arc::clone(spec));
        }
        let spec = Arc::new(SandboxSpec::from_json(self.value.to_string().as_bytes())?);
        self.checked = Some(Arc::clone(&spec));
        Ok(spec)
    }
}

static SPECS: Table<Mutex<Document>> = Table::new(Kind::Spec);

fn lock(document: &Mutex<Document>) -> MutexGuard<'_, Document> {
    document.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The spec that a handle names, checked.
pub fn spec_of(spec: sandbox_spec_t) -> Outcome<Arc<SandboxSpec>> {
    SPECS.with(spec, |document| lock(document).check())
}

/// Makes an empty spec, to be filled by setters. The caller frees it with `sandbox_spec_free`.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_spec_new(spec: *mut sandbox_spec_t, error: *mut sandbox_error_t) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(spec, "spec")?;
            *place = SPECS.insert(Mutex::new(Document {
                value: Value::Object(Map::new()),
                checked: None,
            }))?;
            Ok(())
        })
    }
}

/// Reads a spec from the `length` bytes of JSON at `json`, and checks all that needs no host: an unknown field, a wrong
/// type or a value that cannot be is `SANDBOX_ERROR_INVALID_SPEC`, and the error names the field. The caller frees the
/// spec with `sandbox_spec_free`.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_spec_from_json(
    json: *const c_char,
    length: usize,
    spec: *mut sandbox_spec_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(spec, "spec")?;
            let json = argument::bytes(json.cast(), length, "json")?;
            let checked = SandboxSpec::from_json(json)?;
            // What was read as a spec is JSON.
            let value = serde_json::from_slice(json).unwrap_or_default();
            *place = SPECS.insert(Mutex::new(Document {
                value,
                checked: Some(Arc::new(checked)),
            }))?;
            Ok(())
        })
    }
}

/// Sets the field at `path` to a text. A path is dotted, as errors name fields: `guest.linux.kernel`, `disks[0].path`;
/// what leads there is made. An array grows by its next element. Fields are checked when the spec is used, or by
/// `sandbox_spec_check`.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_spec_set_string(
    spec: sandbox_spec_t,
    path: *const c_char,
    value: *const c_char,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { entry(error, || set(spec, path, || Ok(argument::text(value, "value")?.into()))) }
}

/// Sets the field at `path` to a number, as `sandbox_spec_set_string` does to a text.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_spec_set_integer(
    spec: sandbox_spec_t,
    path: *const c_char,
    value: i64,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { entry(error, || set(spec, path, || Ok(value.into()))) }
}

/// Sets the field at `path` to true, or to false if `value` is 0, as `sandbox_spec_set_string` does to a text.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_spec_set_boolean(
    spec: sandbox_spec_t,
    path: *const c_char,
    value: i32,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { entry(error, || set(spec, path, || Ok((value != 0).into()))) }
}

/// Sets the field at `path` to what the JSON text `value` says, which may be a whole object or array, or `null` for a
/// field left out.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_spec_set_json(
    spec: sandbox_spec_t,
    path: *const c_char,
    value: *const c_char,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            set(spec, path, || {
                let parsed = serde_json::from_str(argument::text(value, "value")?);
                parsed.map_err(|error| Failure::invalid_argument("value", format!("is no JSON ({error})")))
            })
        })
    }
}

/// Sets a field to what `value` gives.
///
/// # Safety
/// `path` is null or a string.
unsafe fn set(spec: sandbox_spec_t, path: *const c_char, value: impl FnOnce() -> Outcome<Value>) -> Outcome<()> {
    // SAFETY: the caller's promise.
    let path = unsafe { argument::text(path, "path") }?;
    SPECS.with(spec, |document| {
        let value = value()?;
        let mut document = lock(document);
        document.checked = None;
        path::set(&mut document.value, path, value)
    })
}

/// Checks all that needs no host; `SANDBOX_ERROR_INVALID_SPEC` with the field's path if something cannot be.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_spec_check(spec: sandbox_spec_t, error: *mut sandbox_error_t) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { entry(error, || spec_of(spec).map(drop)) }
}

/// The whole document, defaults included, as JSON. Checks it first. The caller frees `*json` with `sandbox_text_free`.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_spec_to_json(
    spec: sandbox_spec_t,
    json: *mut sandbox_text_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(json, "json")?;
            *place = text::hand_out(&spec_of(spec)?.to_json())?;
            Ok(())
        })
    }
}

/// Frees a spec; sandboxes that were made by it are not affected. 0 is allowed and does nothing.
///
/// Thread-safety: any thread, any time. Does not block. Fails with `SANDBOX_ERROR_INVALID_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_spec_free(spec: sandbox_spec_t) -> i32 {
    // SAFETY: null is allowed.
    unsafe {
        entry(ptr::null_mut(), || match spec {
            0 => Ok(()),
            _ => SPECS.remove(spec).map(drop),
        })
    }
}
