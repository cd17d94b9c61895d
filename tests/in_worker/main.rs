//! All that is promised of a micro-VM, once more with the micro-VMs in jailed worker processes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]
#![allow(clippy::duplicate_mod, reason = "each program of tests brings its own support")]

#[cfg(feature = "malice")]
mod confinement;
#[path = "../devices/main.rs"]
mod devices;
mod home;
#[path = "../lifecycle.rs"]
mod lifecycle;
#[path = "../linux/main.rs"]
mod linux;
#[path = "../support/mod.rs"]
mod support;
