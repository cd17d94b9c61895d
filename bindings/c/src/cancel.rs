//! Tokens by which one thread ends another one's call.

use std::ptr;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

use sandbox::listeners::{Listener, Listeners};
use sandbox::{Error, ErrorKind};

use crate::argument;
use crate::entry::{Outcome, entry};
use crate::error::sandbox_error_t;
use crate::handle::{Kind, Table};

/// A token that ends calls: functions that may block take one besides their timeout, or 0 for none. Once it is
/// triggered, every call that it was given to, now or later, comes back with `SANDBOX_ERROR_CANCELLED`.
///
/// What a cancelled call had begun is not left half-done: a wait is given up; work such as creating, restoring or
/// forking a sandbox goes on behind and what comes out of it is given back; a stop, a teardown or a snapshot that has
/// begun is finished.
pub type sandbox_cancel_t = u64;

/// What a token's handle names.
#[derive(Default)]
pub struct Token {
    triggered: AtomicBool,
    listeners: Listeners,
}

static TOKENS: Table<Token> = Table::new(Kind::Cancel);

impl Token {
    /// Has `listener` told of the trigger, even if it came before.
    pub fn listen(&self, listener: Weak<Listener>) {
        self.listeners.add(Weak::clone(&listener));
        if self.is_triggered()
            && let Some(listener) = listener.upgrade()
        {
            listener();
        }
    }

    /// Fails if the token was triggered.
    pub fn check(&self) -> Outcome<()> {
        match self.is_triggered() {
            true => Err(Error::new(ErrorKind::Cancelled, "the call was cancelled").into()),
            false => Ok(()),
        }
    }

    fn is_triggered(&self) -> bool {
        self.triggered.load(Ordering::SeqCst)
    }
}

/// The token that a call was given, if any.
pub fn token(cancel: sandbox_cancel_t) -> Outcome<Option<Arc<Token>>> {
    match cancel {
        0 => Ok(None),
        _ => TOKENS.get(cancel).map(Some),
    }
}

/// Makes a token. The caller frees it with `sandbox_cancel_free`.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_cancel_new(cancel: *mut sandbox_cancel_t, error: *mut sandbox_error_t) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(cancel, "cancel")?;
            *place = TOKENS.insert(Token::default())?;
            Ok(())
        })
    }
}

/// Triggers a token, for good. Again does nothing.
///
/// Thread-safety: any thread, any time. Does not block. Fails with `SANDBOX_ERROR_INVALID_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_cancel_trigger(cancel: sandbox_cancel_t) -> i32 {
    // SAFETY: null is allowed.
    unsafe {
        entry(ptr::null_mut(), || {
            TOKENS.with(cancel, |token| {
                token.triggered.store(true, Ordering::SeqCst);
                token.listeners.tell();
                Ok(())
            })
        })
    }
}

/// Frees a token. Calls that it was given to go on, and can no longer be cancelled. 0 is allowed and does nothing.
///
/// Thread-safety: any thread, any time. Does not block. Fails with `SANDBOX_ERROR_INVALID_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_cancel_free(cancel: sandbox_cancel_t) -> i32 {
    // SAFETY: null is allowed.
    unsafe {
        entry(ptr::null_mut(), || match cancel {
            0 => Ok(()),
            _ => TOKENS.remove(cancel).map(drop),
        })
    }
}
