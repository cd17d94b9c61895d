//! Bad input, with the micro-VMs in worker processes. A program of its own, because it counts descriptors.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "bad_input.rs"]
mod bad_input;
