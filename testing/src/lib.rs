//! What the tests of all crates of this workspace share: folders that go by themselves, network namespaces, and skips
//! that are told.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "only tests use it, and they fail by panics"
)]

mod folder;
mod namespace;
mod skip;

pub use folder::TempFolder;
pub use namespace::in_namespace;
pub use skip::{skip, skip_test};
