//! Network device (virtio 1.2, 5.1).
