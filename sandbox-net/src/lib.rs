//! Host side of sandbox networking: taps and addresses.
