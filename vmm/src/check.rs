//! `godwit check`: is this host fit for a guest that must not be disturbed?
//!
//! ```text
//! proc, sys, dev ── facts::Facts ─┐
//!                                 ├─ Case ── TABLE (judge) ── Report ── text, JSON
//! vm.json, --cpus ── guest::Guest ┘             │ (fix)
//!                                               └─ fix::plan ── record ── writes
//! ```
//!
//! Everything there is to know about one setting is one row of a table: what is
//! read, how it is judged, why it matters, how it is mended, and what `--fix`
//! writes. The README's page "Tune a host" ([`page`]) is the same table read in
//! another order.
//!
//! A judge is a pure function of the facts. What cannot be read is never good: it
//! is [`State::NoPermission`] or [`State::Unknown`], with the file that it is
//! about.

mod case;
mod config;
mod cpu;
pub mod facts;
pub mod fix;
pub mod guest;
mod idle;
mod interrupts;
mod isolation;
mod item;
mod kernel;
mod kvm;
mod memory;
mod numa;
pub mod page;
mod posted;
pub mod report;
mod runtime;
mod steering;
mod threads;
mod words;

use std::path::Path;
use std::time::Duration;

pub use case::Case;
use facts::Facts;
pub use item::{Group, How, Item, Mend, State, Verdict, Write};
use report::Report;

/// The rows in the order in which they are reported.
pub fn table() -> impl Iterator<Item = &'static Item> {
    [
        config::ROWS,
        cpu::ROWS,
        isolation::ROWS,
        kernel::ROWS,
        runtime::ROWS,
        kvm::ROWS,
        numa::ROWS,
    ]
    .into_iter()
    .flatten()
}

/// Reads what the table asks for of the host below `root`, counters twice with
/// `interval` between.
#[must_use]
pub fn read(root: &Path, interval: Duration) -> Facts {
    let paths = table().flat_map(|item| item.reads).copied();
    Facts::read(root, paths, interval)
}

/// Judges every row.
#[must_use]
pub fn judge(case: &Case<'_>) -> Report {
    Report::new(case, table().map(|item| (item, item.judge(case))))
}

#[cfg(test)]
mod tests;
