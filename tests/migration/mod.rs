//! Guests that move between two instances.

mod faults;
mod frames;
mod moves;
mod network;
mod pair;
mod serial;
