//! The attacks of hostile guests, once more on machines in jailed worker processes. A program of its own, because it
//! measures the memory of this process and its workers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "hostile/main.rs"]
mod hostile;
