//! Loading a kernel into guest memory.
