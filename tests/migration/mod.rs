//! Guests that move between two instances.

mod faults;
mod frames;
mod moves;
mod pair;
