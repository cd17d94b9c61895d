//! The OCI backend: containers of runc, crun and runsc behind the contract of `sandbox-core`.
//!
//! ```text
//! SandboxSpec ──► Rootfs ──► bundle ──► runtime create ──► Life ──► Exit ──► runtime delete, folder gone
//!                 (image)  config.json   by the reaper     start…
//! ```
//!
//! A backend runs the runtime's own commands, each within a time limit, by way of a *reaper* process, which is the
//! parent of all containers. Everything that a container has on the host stands on record in a folder; what a process
//! leaves behind that ends without a word is removed by its reaper, or by the next [`sweep`](sweep::sweep).

mod backend;
mod bundle;
mod cgroup;
mod disks;
mod error;
mod exit_log;
mod files;
mod host;
pub mod image;
mod probe;
mod reactor;
mod reaper;
mod refuse;
mod runtime;
mod sandbox;
mod state;
mod streams;
pub mod sweep;
mod timer;

pub use backend::{ContainerBackend, runtime_of_snapshot};
pub use host::{ContainerOptions, Host as ContainerHost};
pub use reaper::run_if_reaper;
