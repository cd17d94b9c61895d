//! Kernels: what kind of file one is, where it goes in guest memory, and how it is entered.
