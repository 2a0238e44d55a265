//! Whole configs: what is accepted, and what is said about the rest.
