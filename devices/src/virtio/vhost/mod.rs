//! Rings served outside of this process, by the kernel.
