//! The C interface of the SDK, `libsandbox`: what `include/sandbox.h` declares, which is generated from this source.
//!
//! Every function is an `entry`: it checks its arguments, catches panics, and answers with a code and, if wanted, an
//! error object. Objects live in `handle` tables and are named by 64-bit numbers that are never used twice, so that
//! a handle that was freed, or never existed, or belongs to an object of another kind, is noticed and answered with a
//! code. No user code ever runs on a thread of the library: what happens by itself is put into queues ([`events`],
//! [`log`]) that the user drains.
//!
//! Files are in the order in which the header shows them.
#![allow(non_camel_case_types, reason = "types have the names that C knows them by")]

pub mod code;
pub mod error;
pub mod text;
pub mod version;

pub mod cancel;
pub mod runtime;
pub mod spec;

pub mod lifecycle;
pub mod snapshot;

pub mod console;
pub mod exec;
pub mod exit;
pub mod stats;
pub mod timeline;

pub mod events;
pub mod log;

mod argument;
mod entry;
mod handle;
mod object;
mod path;
mod process;
mod wait;
