//! Error objects.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::Arc;

use crate::code::SANDBOX_ERROR_INVALID_HANDLE;
use crate::entry::{Failure, entry};
use crate::handle::{Kind, Table};

/// What went wrong: a code, a sentence, and the field that it is about.
///
/// Functions that can fail take an `error` argument last. It may be NULL. If not, `*error` is set to 0 on success, and
/// on failure to a new error object, which the caller frees with `sandbox_error_free`.
pub type sandbox_error_t = u64;

struct Object {
    code: i32,
    message: CString,
    field: Option<CString>,
}

static ERRORS: Table<Object> = Table::new(Kind::Error);

/// Makes an error object; 0 if there can be none.
pub fn hand_out(failure: &Failure) -> sandbox_error_t {
    let object = Object {
        code: failure.code(),
        message: c_string(&failure.message()),
        field: failure.field().map(c_string),
    };
    ERRORS.insert(object).unwrap_or(0)
}

/// A NUL inside the text ends it, as far as C is concerned.
pub fn c_string(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

fn find(error: sandbox_error_t) -> Option<Arc<Object>> {
    ERRORS.get(error).ok()
}

/// The error's code, one of `SANDBOX_ERROR_…`; `SANDBOX_ERROR_INVALID_HANDLE` if there is no such error.
///
/// Thread-safety: any thread, any time. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_error_code(error: sandbox_error_t) -> i32 {
    find(error).map_or(SANDBOX_ERROR_INVALID_HANDLE, |object| object.code)
}

/// What went wrong, with all causes and the remedy where there is one, on one line of UTF-8. Never NULL.
///
/// The text belongs to the error and lives until that is freed.
///
/// Thread-safety: any thread, any time. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_error_message(error: sandbox_error_t) -> *const c_char {
    match find(error) {
        // The table keeps the object, and with it the text, until the handle is freed.
        Some(object) => object.message.as_ptr(),
        None => c"no such error: its handle was freed, or never existed".as_ptr(),
    }
}

/// The field of the spec or the options, as a dotted path such as `disks[0].path`, or the name of the argument that is
/// at fault; NULL if the error is about none.
///
/// The text belongs to the error and lives until that is freed.
///
/// Thread-safety: any thread, any time. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_error_field(error: sandbox_error_t) -> *const c_char {
    let object = find(error);
    let field = object.as_ref().and_then(|object| object.field.as_ref());
    field.map_or(ptr::null(), |field| field.as_ptr())
}

/// Frees an error. 0 is allowed and does nothing.
///
/// Thread-safety: any thread, any time. Does not block. Fails with `SANDBOX_ERROR_INVALID_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_error_free(error: sandbox_error_t) -> i32 {
    // SAFETY: null is allowed.
    unsafe {
        entry(ptr::null_mut(), || match error {
            0 => Ok(()),
            _ => ERRORS.remove(error).map(drop),
        })
    }
}
