//! HTTP: the server, what it answers itself, and what it passes on.

pub mod body;
pub mod headers;
mod management;
mod patient;
mod provider;
mod reply;
mod router;
mod server;

pub use router::Audience;
pub use server::Server;
