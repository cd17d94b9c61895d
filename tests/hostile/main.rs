//! Guests that attack their machine by every part of it that they can reach. Each machine survives its guest, or ends
//! it alone and says why; a neighbour goes on serving, and the host's memory stays what it was.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod machine;
mod neighbour;
mod virtio;
