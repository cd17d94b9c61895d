//! Root file systems from folders, archives and images: those that real tools make, and those that an attacker would.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broken;
mod real;
mod sharing;
mod support;
