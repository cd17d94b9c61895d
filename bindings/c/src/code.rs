//! What functions answer with.

/// Success.
pub const SANDBOX_OK: i32 = 0;
/// A field of the spec has a value that cannot be; the error names it.
pub const SANDBOX_ERROR_INVALID_SPEC: i32 = 1;
/// The host or the backend cannot do what was asked for; the message says why.
pub const SANDBOX_ERROR_UNSUPPORTED: i32 = 2;
/// The verb is not allowed in the sandbox's present state; nothing was changed.
pub const SANDBOX_ERROR_WRONG_STATE: i32 = 3;
/// A file, device, interface or program that was named does not exist.
pub const SANDBOX_ERROR_NOT_FOUND: i32 = 4;
/// The host denies access.
pub const SANDBOX_ERROR_PERMISSION_DENIED: i32 = 5;
/// A resource is in use by somebody else.
pub const SANDBOX_ERROR_IN_USE: i32 = 6;
/// A name is taken already.
pub const SANDBOX_ERROR_ALREADY_EXISTS: i32 = 7;
/// The host has too little memory, or too few descriptors, processes or addresses.
pub const SANDBOX_ERROR_HOST_EXHAUSTED: i32 = 8;
/// A kernel or image file is not what it should be.
pub const SANDBOX_ERROR_BAD_IMAGE: i32 = 9;
/// The host failed in a way that has no code of its own.
pub const SANDBOX_ERROR_HOST_FAILURE: i32 = 10;
/// The time given is over; the work may go on.
pub const SANDBOX_ERROR_TIMEOUT: i32 = 11;
/// The call's token was cancelled.
pub const SANDBOX_ERROR_CANCELLED: i32 = 12;
/// The guest ended before it was ready.
pub const SANDBOX_ERROR_GUEST_ENDED: i32 = 13;
/// The guest did what no guest may do, or the host could not run its code.
pub const SANDBOX_ERROR_GUEST_FAULT: i32 = 14;
/// A snapshot is damaged.
pub const SANDBOX_ERROR_CORRUPT: i32 = 15;
/// A snapshot is sound but cannot be used on this host.
pub const SANDBOX_ERROR_INCOMPATIBLE: i32 = 16;
/// The process that held the sandbox is gone.
pub const SANDBOX_ERROR_WORKER_LOST: i32 = 17;
/// An argument cannot be: NULL where something must be, text that is no UTF-8, a size or a number out of range. The
/// error's field is the argument's name.
pub const SANDBOX_ERROR_INVALID_ARGUMENT: i32 = 1001;
/// A handle that was freed already, never existed, or names an object of another kind.
pub const SANDBOX_ERROR_INVALID_HANDLE: i32 = 1002;
/// The library has a defect: it caught a panic of its own. The object that the call was about is poisoned: from now on
/// every call with it is answered with this code, save the one that frees it.
pub const SANDBOX_ERROR_PANICKED: i32 = 1003;
/// The call came from a process that was forked off the one that loaded the library. Such a process may exec or exit.
pub const SANDBOX_ERROR_FORKED: i32 = 1004;

/// As `timeout_ms`: wait for ever. So is every negative number.
pub const SANDBOX_FOREVER: i64 = -1;
/// As a handle: none. No object ever has it.
pub const SANDBOX_NONE: u64 = 0;

#[cfg(test)]
mod tests {
    use sandbox::ErrorKind;

    #[test]
    fn every_kind_of_error_has_its_number_in_the_header() {
        let source = include_str!("code.rs");
        for kind in ErrorKind::ALL {
            let mut name = String::new();
            for letter in format!("{kind:?}").chars() {
                if letter.is_uppercase() && !name.is_empty() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            let line = format!("pub const SANDBOX_ERROR_{name}: i32 = {};", kind.code());
            assert!(source.contains(&line), "missing: {line}");
        }
    }
}
