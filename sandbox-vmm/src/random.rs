//! Random numbers of the host.

use std::io;

/// `N` random bytes, at most 256, which the kernel never cuts short.
pub(crate) fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    const { assert!(N <= 256) };
    let mut bytes = [0; N];
    // SAFETY: the buffer is as long as the length that is passed.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    match usize::try_from(count) {
        Ok(count) if count == N => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}
