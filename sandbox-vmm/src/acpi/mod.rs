//! ACPI tables (ACPI 6.5) that describe the machine to stock kernels.
