//! virtio over PCI (virtio 1.2, 4.1).
