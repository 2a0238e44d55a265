//! Guests that move between two instances.

mod faults;
mod moves;
mod pair;
