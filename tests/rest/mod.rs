//! The REST interface and its client, through the real process.

mod bad_input;
mod ctl;
mod events;
mod kill;
mod lazy;
mod life;
mod old_clients;
mod phases;
mod refusals;
mod service;
mod snapshot;
mod terminal;
