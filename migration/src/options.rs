//! What a migration is asked to be, and which of its means are switched on.

use std::time::Duration;

/// What happens when time is over before the guest could be stopped as briefly
/// as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtTimeout {
    /// The guest stays at the source.
    Cancel,
    /// The guest moves anyway, and is stopped for longer than asked.
    Ignore,
}

/// Whether pages travel as the lines of 64 bytes that are not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroLines {
    /// Where it saves something, tried again now and then.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// A migration's request.
#[derive(Debug, Clone)]
pub struct Options {
    /// Data connections, 1 to 128.
    pub streams: u16,
    /// How long the guest may stand still.
    pub downtime: Duration,
    /// How long copying may take.
    pub timeout: Duration,
    /// What happens then.
    pub at_timeout: AtTimeout,
    /// Bytes a second while the guest runs; the last pages are not held back.
    pub bandwidth: Option<u64>,
    /// Memory is passed as files over a Unix socket, not copied.
    pub local: bool,
    /// How long a peer may be silent while the guest runs. A peer that is slow is not.
    pub stall: Duration,
    /// How long the destination may take to be built, while its kernel answers.
    pub prepare: Duration,
    /// How long a peer may be silent while the guest stands still.
    pub stopped: Duration,
    /// What is switched on.
    pub means: Means,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            streams: 1,
            downtime: Duration::from_millis(10),
            timeout: Duration::from_secs(3600),
            at_timeout: AtTimeout::Cancel,
            bandwidth: None,
            local: false,
            stall: Duration::from_secs(10),
            prepare: Duration::from_secs(300),
            stopped: Duration::from_secs(5),
            means: Means::default(),
        }
    }
}

/// Each means against time, to be switched off alone when its gain is measured.
/// What concerns the destination is taken from the destination's own value.
#[derive(Debug, Clone, Copy)]
pub struct Means {
    /// Find what is present without touching memory; otherwise all of it is.
    pub discovery: bool,
    /// Leave out huge pages that nobody has written since they were new, where
    /// they are watched, and do not scan them.
    pub untouched: bool,
    /// Do not send pages that are zero.
    pub zero_pages: bool,
    /// Send only the lines that are not zero.
    pub zero_lines: ZeroLines,
    /// Re-arm the dirty log right before a page is read, and not for all at once.
    pub clear_before_read: bool,
    /// Leave pages that are dirty in every round to the last one.
    pub hot_pages_last: bool,
    /// Send the last pages over all streams.
    pub striped_final: bool,
    /// Stop at the minimum of predicted downtime; otherwise as soon as it fits.
    pub stop_at_minimum: bool,
    /// Checksum page content. It costs a copy into a warm buffer; without it,
    /// pages go to the socket straight from guest memory.
    pub checksum_pages: bool,
    /// Destination: allocate announced memory ahead of its content, where that is
    /// not written through the file.
    pub populate_ahead: bool,
    /// Destination: write cold memory on 4 KiB pages through the file rather than
    /// the mapping, which saves a page fault each.
    pub write_through_file: bool,
}

impl Default for Means {
    fn default() -> Self {
        Self {
            discovery: true,
            untouched: true,
            zero_pages: true,
            zero_lines: ZeroLines::Auto,
            clear_before_read: true,
            hot_pages_last: true,
            striped_final: true,
            stop_at_minimum: true,
            checksum_pages: true,
            populate_ahead: true,
            write_through_file: true,
        }
    }
}
