//! Reading what C passes, and writing what it gets.

use std::ffi::{CStr, c_char};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::entry::{Failure, Outcome};

/// Longest document or text that is read, in bytes: what is longer is no text of a spec but a mistake.
const MAX_TEXT: usize = 1 << 20;
/// Most entries in an array of texts.
const MAX_TEXTS: usize = 1 << 16;
/// A wait longer than this is for ever: no clock of ours counts further.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The text at `pointer`.
///
/// # Safety
/// `pointer` is null or points to a NUL-terminated string that stays as it is during the call.
pub unsafe fn text<'a>(pointer: *const c_char, name: &'static str) -> Outcome<&'a str> {
    // SAFETY: the caller's promise.
    let text = unsafe { optional_text(pointer, name) }?;
    text.ok_or_else(|| Failure::invalid_argument(name, "is NULL"))
}

/// The text at `pointer`, if it is not null.
///
/// # Safety
/// As [`text`].
pub unsafe fn optional_text<'a>(pointer: *const c_char, name: &'static str) -> Outcome<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr(pointer) }.to_bytes();
    if bytes.len() > MAX_TEXT {
        return Err(Failure::invalid_argument(
            name,
            format!("is longer than {MAX_TEXT} bytes"),
        ));
    }
    let text = std::str::from_utf8(bytes);
    text.map(Some)
        .map_err(|error| Failure::invalid_argument(name, format!("is no UTF-8 ({error})")))
}

/// The texts of a NULL-terminated array, none if `pointer` is null.
///
/// # Safety
/// `pointer` is null or points to an array of strings as [`text`] wants them, the last entry null.
pub unsafe fn texts(pointer: *const *const c_char, name: &'static str) -> Outcome<Vec<String>> {
    let mut all = Vec::new();
    if pointer.is_null() {
        return Ok(all);
    }
    for index in 0..MAX_TEXTS {
        // SAFETY: the array goes on until its null entry, which was not met yet.
        let entry = unsafe { *pointer.add(index) };
        // SAFETY: the caller's promise.
        match unsafe { optional_text(entry, name) }? {
            Some(text) => all.push(text.to_owned()),
            None => return Ok(all),
        }
    }
    Err(Failure::invalid_argument(
        name,
        format!("has more than {MAX_TEXTS} entries"),
    ))
}

/// The bytes at `pointer`.
///
/// # Safety
/// `pointer` is null or points to `length` bytes that stay as they are during the call.
pub unsafe fn bytes<'a>(pointer: *const u8, length: usize, name: &'static str) -> Outcome<&'a [u8]> {
    check_length(pointer.is_null(), length, name)?;
    if length == 0 {
        return Ok(&[]);
    }
    // SAFETY: the caller's promise, and the length was checked.
    Ok(unsafe { std::slice::from_raw_parts(pointer, length) })
}

/// The room for `length` values at `pointer`.
///
/// # Safety
/// `pointer` is null or points to `length` values of `T` that nobody else uses during the call.
pub unsafe fn room<'a, T>(pointer: *mut T, length: usize, name: &'static str) -> Outcome<&'a mut [T]> {
    check_length(pointer.is_null(), length.saturating_mul(size_of::<T>()), name)?;
    if length == 0 {
        return Ok(&mut []);
    }
    // SAFETY: the caller's promise, and the length was checked.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, length) })
}

fn check_length(is_null: bool, length: usize, name: &'static str) -> Outcome<()> {
    if is_null && length > 0 {
        return Err(Failure::invalid_argument(name, "is NULL"));
    }
    match isize::try_from(length) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::invalid_argument(name, "is larger than the address space")),
    }
}

/// The place at `pointer` for a result.
///
/// # Safety
/// `pointer` is null or points to a `T` that nobody else uses during the call.
pub unsafe fn place<'a, T>(pointer: *mut T, name: &'static str) -> Outcome<&'a mut T> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_mut() }.ok_or_else(|| Failure::invalid_argument(name, "is NULL"))
}

/// A time in milliseconds; `None`, for ever, if it is negative.
pub fn timeout(milliseconds: i64) -> Option<Duration> {
    let timeout = u64::try_from(milliseconds).ok().map(Duration::from_millis);
    timeout.filter(|timeout| *timeout < LONGEST)
}

/// The same for calls that know no for ever.
pub fn long_timeout(milliseconds: i64) -> Duration {
    timeout(milliseconds).unwrap_or(LONGEST)
}

/// The options in a JSON document, or their defaults if it is null.
///
/// # Safety
/// As [`text`].
pub unsafe fn options<T: DeserializeOwned + Default>(json: *const c_char, name: &'static str) -> Outcome<T> {
    // SAFETY: the caller's promise.
    match unsafe { optional_text(json, name) }? {
        None => Ok(T::default()),
        Some(json) => sandbox::document::from_json(json.as_bytes()).map_err(Failure::Core),
    }
}
