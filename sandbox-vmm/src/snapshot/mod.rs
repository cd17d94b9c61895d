//! Snapshots: what of a sandbox is written, how, and how it comes back.
//!
//! ```text
//! manifest.json   what it is of, and which files belong to it; under a checksum, written last
//! state           spec, vCPUs, chipset, clock, devices, list of stored pages; in checked sections
//! memory          the stored pages, each at its place
//! working-set     which pages a restored guest asked for first; a hint that restores by demand paging leave
//! base-N.memory   for a difference: the memory files of the snapshots that it is a difference to, the oldest 0
//! ```
//!
//! A folder may come from anywhere. All of it is read as if an attacker had written it: sizes are bounded before
//! anything is taken, checksums are for accidents only, and states are checked by what checks a guest's.

pub mod bytes;
pub mod compatibility;
pub mod draft;
pub mod files;
pub mod folder;
pub mod folders;
mod huge_blocks;
pub mod images;
pub mod memory_file;
pub mod overrides;
pub mod pager;
mod partial;
pub mod saved;
pub mod section;
pub mod writing;
