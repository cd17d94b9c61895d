//! Which library this is, and what it has.

use std::ffi::{CStr, c_char};

/// Version of this interface, raised at every change of it: symbols, layouts, numbers.
pub const SANDBOX_ABI_VERSION: u32 = 3;

/// What this build can be asked for.
const FEATURES: [&str; 11] = [
    "cancel",
    "container",
    "events",
    "exec",
    "fork",
    "kvm",
    "log",
    "restore",
    "snapshot",
    "spec-setters",
    "worker",
];

/// The `SANDBOX_ABI_VERSION` of the library that is loaded; compare it with the header's.
///
/// Thread-safety: any thread, any time. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_abi_version() -> u32 {
    SANDBOX_ABI_VERSION
}

/// The SDK's version, such as `0.1.0`. The text lives as long as the library.
///
/// Thread-safety: any thread, any time. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };
    VERSION.as_ptr()
}

/// 1 if this build has the feature of that name, 0 if not, or if `name` is NULL or unknown. What the host can do is
/// another question: see `sandbox_runtime_probe`, and `sandbox_capabilities` for one sandbox.
///
/// There are: `cancel`, `container`, `events`, `exec`, `fork`, `kvm`, `log`, `restore`, `snapshot`, `spec-setters`, `worker`.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// `name` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_has_feature(name: *const c_char) -> i32 {
    if name.is_null() {
        return 0;
    }
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) };
    i32::from(FEATURES.iter().any(|feature| name.to_bytes() == feature.as_bytes()))
}
