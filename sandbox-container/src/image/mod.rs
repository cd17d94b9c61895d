//! Root file systems: from a folder, a tar archive or an OCI image to what a container sees as `/`.
//!
//! ```text
//! ImageSource ──► Layout, Image ──► Unpacker ──► Store's entry ──► Rootfs
//!   (spec)        verified            hostile      shared, never     overlay: its
//!                 documents           archives     written again     own writes
//! ```

mod compression;
mod config;
mod copy;
mod digest;
mod error;
mod layout;
mod oci;
mod overlay;
mod rootfs;
mod signal;
mod store;
mod unpack;
mod user;

pub use config::ImageConfig;
pub use error::ImageError;
pub use rootfs::{ImageSource, Rootfs};
pub use store::Store;
pub use unpack::{Ownership, UnpackLimits, Unpacked, Unpacker};
pub use user::User;
