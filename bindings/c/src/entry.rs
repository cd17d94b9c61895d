//! What every function of the interface does around its work.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use sandbox::Error;

use crate::code::{
    SANDBOX_ERROR_FORKED, SANDBOX_ERROR_HOST_EXHAUSTED, SANDBOX_ERROR_INVALID_ARGUMENT, SANDBOX_ERROR_INVALID_HANDLE,
    SANDBOX_ERROR_PANICKED, SANDBOX_OK,
};
use crate::error::{self, sandbox_error_t};
use crate::process;

/// What the work of a function comes to.
pub type Outcome<T> = Result<T, Failure>;

/// Why a call fails.
#[derive(Debug)]
pub enum Failure {
    /// The SDK's own error.
    Core(Error),
    /// An error that several callers hear of.
    Shared(Arc<Error>),
    /// An error of this interface.
    Interface {
        code: i32,
        message: Cow<'static, str>,
        field: Option<&'static str>,
    },
}

impl Failure {
    pub fn invalid_argument(name: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Failure::Interface {
            code: SANDBOX_ERROR_INVALID_ARGUMENT,
            message: message.into(),
            field: Some(name),
        }
    }

    pub fn invalid_handle(message: String) -> Self {
        Self::plain(SANDBOX_ERROR_INVALID_HANDLE, message)
    }

    pub fn exhausted(message: impl Into<Cow<'static, str>>) -> Self {
        Self::plain(SANDBOX_ERROR_HOST_EXHAUSTED, message)
    }

    pub fn panicked() -> Self {
        let message = "the library caught a panic of its own; the object is poisoned and can only be freed";
        Self::plain(SANDBOX_ERROR_PANICKED, message)
    }

    pub fn plain(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Failure::Interface {
            code,
            message: message.into(),
            field: None,
        }
    }

    pub fn code(&self) -> i32 {
        match self {
            Failure::Core(error) => error.kind().code(),
            Failure::Shared(error) => error.kind().code(),
            Failure::Interface { code, .. } => *code,
        }
    }

    pub fn message(&self) -> String {
        match self {
            Failure::Core(error) => error.report(),
            Failure::Shared(error) => error.report(),
            Failure::Interface { message, field, .. } => match field {
                Some(field) => format!("{field}: {message}"),
                None => message.to_string(),
            },
        }
    }

    pub fn field(&self) -> Option<&str> {
        match self {
            Failure::Core(error) => error.field(),
            Failure::Shared(error) => error.field(),
            Failure::Interface { field, .. } => *field,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Core(error)
    }
}

/// Runs the work of a function and answers with its code; `error`, if not null, gets the error object, or 0.
///
/// # Safety
/// `error` is null or points to where a handle can be written.
pub unsafe fn entry(error: *mut sandbox_error_t, work: impl FnOnce() -> Outcome<()>) -> i32 {
    // SAFETY: the caller's promise.
    let mut place = unsafe { error.as_mut() };
    if let Some(place) = &mut place {
        **place = 0;
    }
    if process::is_forked() {
        return SANDBOX_ERROR_FORKED;
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        process::prepare();
        work()
    }));
    let failure = match outcome {
        Ok(Ok(())) => return SANDBOX_OK,
        Ok(Err(failure)) => failure,
        Err(_) => Failure::panicked(),
    };
    if let Some(place) = place {
        // An error that cannot be told in full still has its code.
        *place = catch_unwind(AssertUnwindSafe(|| error::hand_out(&failure))).unwrap_or(0);
    }
    failure.code()
}
