//! The machine as asked for, valid by construction.
