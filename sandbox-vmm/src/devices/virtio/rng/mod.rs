//! virtio-rng, the entropy device (virtio 1.3 §5.4).
