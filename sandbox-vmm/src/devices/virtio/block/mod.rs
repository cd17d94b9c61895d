//! virtio-block (virtio 1.3 §5.2).
