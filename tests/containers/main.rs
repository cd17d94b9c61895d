//! Containers of every OCI runtime that works here, through the public interface: what the conformance suite does not
//! ask, because only containers have it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod disks;
mod ending;
mod functions;
mod image;
mod left_behind;
mod network;
mod probe;
mod process;
mod root;
mod rootless;
mod stats;
