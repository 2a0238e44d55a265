//! What cyclictest writes with `--json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bench::times::{Bar, Times, bars};

/// What one thread found. Times are whole microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Found {
    /// The guest's kernel.
    pub kernel: String,
    /// How often it slept.
    pub cycles: u64,
    /// How often it was later than the histogram reaches.
    pub beyond: u64,
    /// How late it was on average, in microseconds.
    pub mean_us: f64,
    /// How late it was; percentiles are of what the histogram has, the greatest is of all.
    pub times: Times,
    pub bars: Vec<Bar>,
}

/// It is not what cyclictest writes.
#[derive(Debug, thiserror::Error)]
pub(super) enum FoundError {
    /// Not the document.
    #[error("it wrote what is not understood")]
    Json(#[from] serde_json::Error),
    /// The guest's kernel is another.
    #[error("the guest's kernel is {0}, which is not a PREEMPT_RT kernel")]
    NotRealtime(String),
    /// No thread, or one that did not sleep.
    #[error("it measured nothing")]
    Nothing,
}

/// Those parts of the document that are used.
#[derive(Debug, Deserialize)]
struct Document {
    sysinfo: System,
    thread: BTreeMap<String, Thread>,
}

#[derive(Debug, Deserialize)]
struct System {
    release: String,
    realtime: u8,
}

#[derive(Debug, Deserialize)]
struct Thread {
    /// How often it was so many microseconds late; no entry where it never was.
    histogram: BTreeMap<String, u64>,
    cycles: u64,
    max: u32,
    avg: f64,
}

impl Found {
    /// Reads the document of a run with one thread.
    pub(super) fn parse(text: &str) -> Result<Self, FoundError> {
        let document: Document = serde_json::from_str(text)?;
        let release = document.sysinfo.release;
        if document.sysinfo.realtime == 0 {
            return Err(FoundError::NotRealtime(release));
        }
        let threads = document.thread.into_values();
        let thread = threads.last().ok_or(FoundError::Nothing)?;
        let entry = |(late, count): (&String, &u64)| {
            let count = usize::try_from(*count).unwrap_or(usize::MAX);
            Some((late.parse::<u32>().ok()?, count))
        };
        let mut late: Vec<f64> = thread
            .histogram
            .iter()
            .filter_map(entry)
            .flat_map(|(late, count)| std::iter::repeat_n(f64::from(late), count))
            .collect();
        late.sort_by(f64::total_cmp);
        let mut times = Times::of(&late).ok_or(FoundError::Nothing)?;
        times.max_us = f64::from(thread.max);
        Ok(Self {
            kernel: release,
            cycles: thread.cycles,
            beyond: thread.cycles.saturating_sub(late.len() as u64),
            mean_us: thread.avg,
            times,
            bars: bars(&late),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(realtime: u8) -> String {
        format!(
            r#"{{"file_version":1,"cmdline:":"cyclictest--quiet","return_code":0,
            "sysinfo":{{"sysname":"Linux","release":"6.1.0-rt","realtime":{realtime}}},"num_threads":1,
            "thread":{{"0":{{"histogram":{{"9":2,"10":5,"120":1}},"cycles":9,"min":9,"max":200000,
            "avg":33.5,"cpu":1,"node":0}}}}}}"#
        )
    }

    #[test]
    fn the_histogram_is_read_in_the_order_of_numbers() {
        let found = Found::parse(&document(1)).unwrap();
        assert_eq!((found.cycles, found.beyond), (9, 1));
        let times = found.times;
        assert_eq!(
            (times.min_us, times.p50_us, times.p99_us),
            (9.0, 10.0, 120.0)
        );
        assert_eq!((times.p99_9_us, times.max_us), (None, 200_000.0));
        assert_eq!(found.bars, [(16, 7), (128, 1)]);
    }

    #[test]
    fn another_kernel_is_no_result() {
        let error = Found::parse(&document(0)).unwrap_err();
        assert!(matches!(error, FoundError::NotRealtime(_)), "{error}");
        Found::parse("WARN: no").unwrap_err();
    }
}
