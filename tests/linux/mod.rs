//! Guests that boot a distribution's Linux.

mod boot;
mod disk;
mod facts;
mod net;
