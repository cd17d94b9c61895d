//! The KVM backend: machine, boot protocols, guest dialects and devices, x86_64.

pub mod acpi;
pub mod boot;
pub mod devices;
pub mod memory;
pub mod rate_limit;
