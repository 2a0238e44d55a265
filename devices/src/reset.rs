//! Ports by which a guest switches itself off or resets itself.
