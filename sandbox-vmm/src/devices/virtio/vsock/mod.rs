//! virtio-vsock in user space: guest ports meet Unix sockets of the host (virtio 1.3 §5.10).
