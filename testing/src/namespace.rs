//! A network of a test's own.

use std::panic::resume_unwind;
use std::path::Path;
use std::{io, thread};

use crate::skip::skip_test;

/// Runs `test` on a thread with an empty network namespace of its own, so that nothing it makes can outlive it or meet
/// the host's interfaces. Where that cannot be had, the test of this name is skipped.
pub fn in_namespace(name: &str, test: impl FnOnce() + Send + 'static) {
    let run = move || {
        enter_namespace()?;
        if !Path::new("/dev/net/tun").exists() {
            return Err("no /dev/net/tun: needs the tun module");
        }
        test();
        Ok(())
    };
    // The name is for those who ask what test is running.
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run).unwrap();
    match thread.join() {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => skip_test(name, reason),
        Err(panic) => resume_unwind(panic),
    }
}

fn enter_namespace() -> Result<(), &'static str> {
    // SAFETY: changes the network namespace of this thread only; no memory is touched.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EPERM) => Err("needs root to make a network namespace"),
        _ => panic!("cannot make a network namespace: {error}"),
    }
}
