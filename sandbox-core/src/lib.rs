//! The contract that every sandbox backend keeps: what a sandbox is described by ([`SandboxSpec`]), what can be done
//! with it ([`Backend`], [`Sandbox`]), how it ends ([`Exit`]) and what goes wrong ([`Error`]).
//!
//! This crate knows no backend and has no `unsafe`. Sizes are bytes, times on the [`Timeline`] are nanoseconds of the
//! monotonic clock, unless a name says otherwise.
#![forbid(unsafe_code)]

pub mod console;
pub mod document;
pub mod error;
pub mod exit;
pub mod gate;
pub mod jail;
pub mod lifecycle;
pub mod limits;
pub mod listeners;
pub mod network;
pub mod pool;
pub mod readiness;
pub mod sandbox;
pub mod snapshot;
pub mod spec;
pub mod stats;
pub mod timeline;

pub use console::{ConsoleChunk, ConsoleLog};
pub use error::{Error, ErrorKind, Result};
pub use exit::{Exit, FaultReport, Registers};
pub use jail::Weakness;
pub use lifecycle::{Lifecycle, State, Verb};
pub use network::NetworkState;
pub use sandbox::{Backend, Capability, Exec, ExecSession, Fork, Probe, Renewed, Restored, Sandbox, Teardown};
pub use snapshot::{Manifest, RestoreOptions, SnapshotOptions, Uniqueness};
pub use spec::SandboxSpec;
pub use stats::Stats;
pub use timeline::{Phase, Timeline};
