//! Snapshots, restores and forks through the trait, once more with the micro-VMs in jailed worker processes. Left out is
//! what is no other there: an old folder, and what programs in a Linux guest make of their identity.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../snapshot/checker.rs"]
mod checker;
#[path = "../snapshot/damage.rs"]
mod damage;
#[path = "../snapshot/fork.rs"]
mod fork;
#[path = "../snapshot/identity.rs"]
mod identity;
#[path = "../snapshot/linux.rs"]
mod linux;
#[path = "../snapshot/load.rs"]
mod load;
#[path = "../snapshot/many.rs"]
mod many;
#[path = "../snapshot/network.rs"]
mod network;
#[path = "../snapshot/paging.rs"]
mod paging;
#[path = "../snapshot/pool.rs"]
mod pool;
#[path = "../snapshot/restore.rs"]
mod restore;
