//! Initial RAM file systems: a tree of files, and the cpio archive made of it.

mod newc;
mod tree;

pub(crate) use tree::Tree;
