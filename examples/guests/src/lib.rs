//! The project's own guests, built from C by gcc.
