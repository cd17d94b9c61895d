//! The KVM backend: machine, boot protocols, guest dialects and devices.
