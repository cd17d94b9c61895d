//! Stock Debian Linux, unmodified: it boots, finds every device, does its work and ends.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod clock;
mod disk;
mod ending;
mod idle;
mod kernel;
mod memory;
mod network;
mod processors;
mod vsock;
