//! The OCI backend: containers of runc, crun and runsc behind the contract of `sandbox-core`.

mod error;
pub mod image;
