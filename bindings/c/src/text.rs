//! Texts that the library hands out.

use std::ffi::{CString, c_char};
use std::ptr;

use serde::Serialize;

use crate::code::SANDBOX_ERROR_HOST_FAILURE;
use crate::entry::{Failure, Outcome, entry};
use crate::error::c_string;
use crate::handle::{Kind, Table};

/// A text of the library's: UTF-8, most of them a JSON document. Freed by `sandbox_text_free`.
pub type sandbox_text_t = u64;

static TEXTS: Table<CString> = Table::new(Kind::Text);

/// Makes a text object.
pub fn hand_out(text: &str) -> Outcome<sandbox_text_t> {
    TEXTS.insert(c_string(text))
}

/// Makes a text object of a JSON document.
pub fn hand_out_json(document: &impl Serialize) -> Outcome<sandbox_text_t> {
    let json = serde_json::to_string(document);
    let json = json.map_err(|error| Failure::plain(SANDBOX_ERROR_HOST_FAILURE, error.to_string()))?;
    hand_out(&json)
}

/// The text, terminated by NUL; NULL if there is no such text.
///
/// It belongs to the text object and lives until that is freed.
///
/// Thread-safety: any thread, any time. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_text_data(text: sandbox_text_t) -> *const c_char {
    // The table keeps the text until the handle is freed.
    TEXTS.get(text).map_or(ptr::null(), |text| text.as_ptr())
}

/// The text's length in bytes, without the NUL; 0 if there is no such text.
///
/// Thread-safety: any thread, any time. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_text_length(text: sandbox_text_t) -> usize {
    TEXTS.get(text).map_or(0, |text| text.as_bytes().len())
}

/// Frees a text. 0 is allowed and does nothing.
///
/// Thread-safety: any thread, any time. Does not block. Fails with `SANDBOX_ERROR_INVALID_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_text_free(text: sandbox_text_t) -> i32 {
    // SAFETY: null is allowed.
    unsafe {
        entry(ptr::null_mut(), || match text {
            0 => Ok(()),
            _ => TEXTS.remove(text).map(drop),
        })
    }
}
