//! Every device does its work for a guest, seen from the guest's console and from the host's side at once.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod disk;
mod managed;
mod network;
mod network_ready;
mod rate_limit;
mod rng;
mod tap;
mod vsock;
