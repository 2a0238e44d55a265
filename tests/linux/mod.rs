//! Guests that boot a distribution's Linux.

mod boot;
mod configs;
mod disk;
mod facts;
mod migrate;
mod net;
mod offline;
mod plug;
mod wire;
