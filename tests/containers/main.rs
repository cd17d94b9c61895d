//! Containers of every OCI runtime that works here, through the public interface.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod ending;
mod network;
