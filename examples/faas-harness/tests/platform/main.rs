//! The platform as its clients see it: the program is started, and spoken to over HTTP.
//!
//! Its functions are the project's own guests, which run on every KVM.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod bad_input;
mod containers;
mod deploying;
mod invoking;
mod killing;
mod logs;
mod measuring;
mod metrics;
mod page;
mod picture;
mod processes;
mod retrying;
mod streaming;
mod support;
