//! One error type for all backends.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, flat and append-only: the numbers are the codes of the C interface and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
#[repr(i32)]
pub enum ErrorKind {
    /// A field of the spec has a value that cannot be; [`Error::field`] names it.
    InvalidSpec = 1,
    /// The host or the backend cannot do what was asked for; the message says why.
    Unsupported = 2,
    /// The verb is not allowed in the sandbox's present state; nothing was changed.
    WrongState = 3,
    /// A file, device, interface or program that was named does not exist.
    NotFound = 4,
    /// The host denies access.
    PermissionDenied = 5,
    /// A resource is in use by somebody else.
    InUse = 6,
    /// A name is taken already.
    AlreadyExists = 7,
    /// The host has too little memory, or too few descriptors, processes or addresses.
    HostExhausted = 8,
    /// A kernel or image file is not what it should be.
    BadImage = 9,
    /// The host failed in a way that has no kind of its own.
    HostFailure = 10,
    /// The time given is over; the work may go on.
    Timeout = 11,
    /// The caller cancelled the call.
    Cancelled = 12,
    /// The guest ended before it was ready.
    GuestEnded = 13,
    /// The guest did what no guest may do, or the host could not run its code.
    GuestFault = 14,
    /// A snapshot is damaged.
    Corrupt = 15,
    /// A snapshot is sound but cannot be used on this host.
    Incompatible = 16,
    /// The process that held the sandbox is gone.
    WorkerLost = 17,
}

impl ErrorKind {
    /// All kinds, in the order of their codes.
    pub const ALL: [ErrorKind; 17] = [
        ErrorKind::InvalidSpec,
        ErrorKind::Unsupported,
        ErrorKind::WrongState,
        ErrorKind::NotFound,
        ErrorKind::PermissionDenied,
        ErrorKind::InUse,
        ErrorKind::AlreadyExists,
        ErrorKind::HostExhausted,
        ErrorKind::BadImage,
        ErrorKind::HostFailure,
        ErrorKind::Timeout,
        ErrorKind::Cancelled,
        ErrorKind::GuestEnded,
        ErrorKind::GuestFault,
        ErrorKind::Corrupt,
        ErrorKind::Incompatible,
        ErrorKind::WorkerLost,
    ];

    /// The code of the C interface.
    pub fn code(self) -> i32 {
        self as i32
    }
}

/// An error: its kind, the field of the spec it is about where there is one, a sentence that names the remedy where
/// there is one, and what caused it.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    field: Option<Cow<'static, str>>,
    context: Cow<'static, str>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `context` is a lower-case sentence without full stop.
    pub fn new(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            field: None,
            context: context.into(),
            source: None,
        }
    }

    /// An [`ErrorKind::InvalidSpec`] about `field`, a dotted path such as `disks[0].path`.
    pub fn invalid(field: impl Into<Cow<'static, str>>, context: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidSpec, context).with_field(field)
    }

    /// An [`ErrorKind::Unsupported`] about `field`.
    pub fn unsupported(field: impl Into<Cow<'static, str>>, context: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, context).with_field(field)
    }

    /// An [`ErrorKind::Timeout`]: `what` was waited for.
    pub fn timeout(what: &str) -> Self {
        Self::new(ErrorKind::Timeout, format!("timed out waiting for {what}"))
    }

    /// Names the field that the error is about.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The field of the spec or the options that is at fault, as a dotted path.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// The sentence without field and cause.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// The whole chain of causes on one line, for logs and for callers without `std::error::Error`.
    pub fn report(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {}", self.context),
            None => f.write_str(&self.context),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_without_gaps() {
        for (index, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.code() as usize, index + 1, "{kind:?}");
        }
    }

    #[test]
    fn report_holds_field_sentence_and_every_cause() {
        let cause = std::io::Error::other("disk on fire");
        let error = Error::invalid("disks[0].path", "cannot be opened").with_source(cause);
        assert_eq!(error.report(), "disks[0].path: cannot be opened: disk on fire");
        assert_eq!(error.kind().code(), 1);
    }
}
