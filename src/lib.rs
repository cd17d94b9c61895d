//! One `Sandbox` trait before KVM micro-VMs and OCI runtimes.
pub use sandbox_core as core;
