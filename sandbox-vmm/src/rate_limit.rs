//! Token buckets that hold a device to its bandwidth and operations.
