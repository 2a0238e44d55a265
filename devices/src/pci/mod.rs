//! PCI: configuration space, base address registers, MSI-X, the root bridge.
