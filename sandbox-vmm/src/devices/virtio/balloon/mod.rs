//! virtio-balloon (virtio 1.3 §5.5).
