//! What can go wrong between an image and a root file system.

use std::io;
use std::path::PathBuf;

use sandbox_core::{Error, ErrorKind};

use crate::error::kind_of;

/// Why a root file system could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Several images stand in the layout and none was named.
    #[error("the layout holds several images: {names}; name one")]
    Ambiguous {
        /// Their names, or their digests where they have none.
        names: String,
    },

    /// The bytes are no archive, or a broken one.
    #[error("the archive {reason}")]
    BadArchive {
        /// What is wrong with it.
        reason: String,
    },

    /// A document of the image does not say what it must.
    #[error("{document} {reason}")]
    BadDocument {
        /// Which document: its file name or digest.
        document: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The content is not what its digest says.
    #[error("{digest} is damaged: its content has the digest {found}")]
    DigestMismatch {
        /// The digest that the image names.
        digest: String,
        /// The digest of what is there.
        found: String,
    },

    /// An entry of an archive is refused, because no sound image has one like it.
    #[error("entry {entry:?} {reason}")]
    Entry {
        /// The entry's path as the archive gives it.
        entry: String,
        /// Why it is refused, and the remedy where there is one.
        reason: String,
    },

    /// The host failed at an entry of an archive.
    #[error("entry {entry:?}: cannot {action}")]
    EntryFailed {
        /// The entry's path as the archive gives it.
        entry: String,
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The host failed.
    #[error("{path}: cannot {action}")]
    Host {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },

    /// A blob that the image names is not there.
    #[error("blob {digest} is missing from the layout")]
    MissingBlob {
        /// Its digest.
        digest: String,
    },

    /// No image of the layout has the name.
    #[error("no image of the layout is named {name:?}; there are: {names}")]
    NoSuchImage {
        /// The name asked for.
        name: String,
        /// The names that there are.
        names: String,
    },

    /// The blob's size is not what its descriptor says.
    #[error("{digest} is damaged: it has {found} bytes where its descriptor says {expected}")]
    SizeMismatch {
        /// Its digest.
        digest: String,
        /// The descriptor's size in bytes.
        expected: u64,
        /// The size found, in bytes.
        found: u64,
    },

    /// The file is neither a folder nor an archive.
    #[error("{path} {reason}")]
    UnfitSource {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        reason: &'static str,
    },

    /// No account of the root file system has the name.
    #[error("{user:?} is not known: {reason}")]
    UnknownUser {
        /// The user as given.
        user: String,
        /// What is missing.
        reason: &'static str,
    },

    /// The image is for another processor or operating system.
    #[error("the image is for {found}; this host runs {wanted}")]
    WrongPlatform {
        /// The platform of this host.
        wanted: String,
        /// The image's platform, or all of them.
        found: String,
    },
}

impl ImageError {
    /// A host's failure at `path`.
    pub(crate) fn host(path: impl Into<PathBuf>, action: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Host {
            path: path.into(),
            action,
            source: source.into(),
        }
    }

    /// The contract's kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Host { source, .. } | Self::EntryFailed { source, .. } => kind_of(source),
            Self::Ambiguous { .. } | Self::UnknownUser { .. } => ErrorKind::InvalidSpec,
            Self::NoSuchImage { .. } => ErrorKind::NotFound,
            Self::WrongPlatform { .. } => ErrorKind::Unsupported,
            Self::BadArchive { .. }
            | Self::BadDocument { .. }
            | Self::DigestMismatch { .. }
            | Self::Entry { .. }
            | Self::MissingBlob { .. }
            | Self::SizeMismatch { .. }
            | Self::UnfitSource { .. } => ErrorKind::BadImage,
        }
    }

    /// The same as an error of the contract, about `field` of the spec.
    pub fn about(self, field: impl Into<String>) -> Error {
        let context = self.to_string();
        let error = Error::new(self.kind(), context).with_field(field.into());
        match self {
            Self::Host { source, .. } | Self::EntryFailed { source, .. } => error.with_source(source),
            _ => error,
        }
    }
}
