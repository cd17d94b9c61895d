//! Unikernels of each family, with the micro-VMs in worker processes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "unikernels/main.rs"]
mod unikernels;
