//! Snapshots: what of a sandbox is written, how, and how it comes back.

pub mod bytes;
pub mod overrides;
pub mod saved;
pub mod section;
