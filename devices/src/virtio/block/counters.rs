//! What a disk has done, for whoever asks.
//!
//! One thread counts, the device loop; any may look. A look may fall between
//! two numbers of one request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::request::Operation;

/// Requests of one kind, with the time from their ring to their answer.
#[derive(Debug)]
struct Timed {
    count: AtomicU64,
    bytes: AtomicU64,
    total_ns: AtomicU64,
    min_ns: AtomicU64,
    max_ns: AtomicU64,
}

impl Default for Timed {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            total_ns: AtomicU64::new(0),
            min_ns: AtomicU64::new(u64::MAX),
            max_ns: AtomicU64::new(0),
        }
    }
}

/// A disk's counters, from its making on.
#[derive(Debug, Default)]
pub(super) struct Counters {
    read: Timed,
    write: Timed,
    flushed: AtomicU64,
    discarded: AtomicU64,
    failed: AtomicU64,
}

/// There is one writer, so that no locked instruction is needed.
fn add(counter: &AtomicU64, value: u64) {
    let sum = get(counter).wrapping_add(value);
    counter.store(sum, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Timed {
    fn add(&self, bytes: usize, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        add(&self.count, 1);
        add(&self.bytes, bytes as u64);
        add(&self.total_ns, ns);
        self.min_ns
            .store(get(&self.min_ns).min(ns), Ordering::Relaxed);
        self.max_ns
            .store(get(&self.max_ns).max(ns), Ordering::Relaxed);
    }

    /// Count, bytes, and the shortest, mean and longest time in µs.
    fn numbers(&self) -> [u64; 5] {
        let count = get(&self.count);
        let mean = get(&self.total_ns).checked_div(count).unwrap_or(0);
        let min = if count == 0 { 0 } else { get(&self.min_ns) };
        let us = [min, mean, get(&self.max_ns)].map(|ns| ns / 1000);
        [count, get(&self.bytes), us[0], us[1], us[2]]
    }
}

impl Counters {
    /// A request was carried out on `bytes` bytes.
    pub(super) fn done(&self, operation: Operation, bytes: usize, took: Duration) {
        match operation {
            Operation::Read { .. } => self.read.add(bytes, took),
            Operation::Write { .. } => self.write.add(bytes, took),
            Operation::Flush => add(&self.flushed, 1),
            Operation::Discard { .. } | Operation::WriteZeroes { .. } => add(&self.discarded, 1),
            Operation::GetId => {}
        }
    }

    /// A request was answered with an error.
    pub(super) fn failed(&self) {
        add(&self.failed, 1);
    }

    pub(super) fn list(&self) -> Vec<(&'static str, u64)> {
        const READ: [&str; 5] = [
            "read_ops",
            "read_bytes",
            "read_latency_min_us",
            "read_latency_avg_us",
            "read_latency_max_us",
        ];
        const WRITE: [&str; 5] = [
            "write_ops",
            "write_bytes",
            "write_latency_min_us",
            "write_latency_avg_us",
            "write_latency_max_us",
        ];
        let read = READ.into_iter().zip(self.read.numbers());
        let write = WRITE.into_iter().zip(self.write.numbers());
        let rest = [
            ("flush_ops", get(&self.flushed)),
            ("discard_ops", get(&self.discarded)),
            ("errors", get(&self.failed)),
        ];
        read.chain(write).chain(rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_with_their_times() {
        let counters = Counters::default();
        assert!(counters.list().iter().all(|(_, value)| *value == 0));
        let read = Operation::Read { offset: 0 };
        counters.done(read, 512, Duration::from_micros(10));
        counters.done(read, 4096, Duration::from_micros(31));
        counters.done(Operation::Flush, 0, Duration::from_micros(500));
        counters.failed();
        let list = counters.list();
        assert_eq!(
            list[..5],
            [
                ("read_ops", 2),
                ("read_bytes", 4608),
                ("read_latency_min_us", 10),
                ("read_latency_avg_us", 20),
                ("read_latency_max_us", 31),
            ]
        );
        assert_eq!(list[5], ("write_ops", 0));
        assert_eq!(
            list[10..],
            [("flush_ops", 1), ("discard_ops", 0), ("errors", 1)]
        );
    }
}
