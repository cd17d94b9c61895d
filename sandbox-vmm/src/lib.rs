//! The KVM backend: machine, boot protocols, guest dialects and devices, x86_64.

pub mod acpi;
mod assemble;
mod backend;
pub mod boot;
pub mod devices;
mod dialect;
mod error;
mod event_loop;
pub mod machine;
pub mod memory;
mod networks;
mod random;
pub mod rate_limit;
pub mod renewal;
mod sandbox;
pub mod snapshot;

use sandbox_core::gate;
pub mod worker;

pub use backend::{KvmBackend, KvmOptions};
pub use dialect::Identification;
pub use sandbox::KvmSandbox;
pub use worker::WorkerOptions;
