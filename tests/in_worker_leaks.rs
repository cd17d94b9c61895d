//! Nothing is left behind by worker processes either. A program of its own, because it counts what the whole process holds.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "leaks.rs"]
mod leaks;
