//! Snapshots, restores and forks through the trait.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod checker;
mod damage;
mod fork;
mod golden;
mod identity;
mod killed;
mod linux;
mod linux_identity;
mod load;
mod many;
mod network;
mod paging;
mod pool;
mod restore;
