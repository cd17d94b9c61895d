//! virtio-net (virtio 1.3 §5.1).
