//! The threads that send pages, one for each data connection.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::eventfd::EventFd;

use super::encode::{Encoder, Tally, Written};
use super::round::Work;
use crate::channel::{ChannelError, Link, Patience, Stop};
use crate::guest::DirtyLog;
use crate::memory::Region;
use crate::options::Means;
use crate::stats::{Moment, Progress};
use crate::wire::message::Message;

/// What the senders share.
#[derive(Debug)]
struct Shared {
    regions: Vec<Region>,
    log: Log,
    written: Written,
    means: Means,
    progress: Arc<Progress>,
    stop: Stop,
    pace: Pace,
    board: Mutex<Board>,
    posted: Condvar,
    /// Readable when a round is over.
    done: EventFd,
}

/// The log, which cannot show itself.
struct Log(Arc<dyn DirtyLog>);

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Log")
    }
}

/// The work that was posted last.
#[derive(Debug, Default)]
struct Board {
    posts: u64,
    work: Option<Arc<Work>>,
}

/// The senders of one migration. Dropping it ends and joins them.
#[derive(Debug)]
pub(super) struct Senders {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    links: Vec<Arc<Link>>,
}

/// What the senders need to know.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) regions: Vec<Region>,
    pub(super) means: Means,
    pub(super) bandwidth: Option<u64>,
    pub(super) progress: Arc<Progress>,
    pub(super) stop: Stop,
}

impl Senders {
    pub(super) fn start(
        setup: Setup,
        log: Arc<dyn DirtyLog>,
        links: Vec<Link>,
    ) -> Result<Self, ChannelError> {
        let wrap = |source| ChannelError::Io {
            doing: "starting the threads that send",
            source,
        };
        let shared = Arc::new(Shared {
            written: Written::new(&setup.regions),
            regions: setup.regions,
            log: Log(log),
            means: setup.means,
            progress: setup.progress,
            stop: setup.stop,
            pace: Pace::new(setup.bandwidth),
            board: Mutex::default(),
            posted: Condvar::new(),
            done: EventFd::new().map_err(|e| wrap(e.into()))?,
        });
        let mut senders = Self {
            shared,
            threads: Vec::new(),
            links: links.into_iter().map(Arc::new).collect(),
        };
        for (index, link) in senders.links.iter().enumerate() {
            let (shared, link) = (Arc::clone(&senders.shared), Arc::clone(link));
            let thread = thread::Builder::new()
                .name(format!("send{index}"))
                .spawn(move || {
                    if let Err(error) = run(&shared, &link, index) {
                        shared.stop.fail(error);
                    }
                })
                .map_err(wrap)?;
            senders.threads.push(thread);
        }
        Ok(senders)
    }

    pub(super) fn streams(&self) -> usize {
        self.links.len()
    }

    /// Readable when a round is over.
    pub(super) fn done(&self) -> BorrowedFd<'_> {
        self.shared.done.as_fd()
    }

    /// Takes note that the round is over; false if it is not.
    pub(super) fn take_done(&self) -> bool {
        let mut fds = [nix::poll::PollFd::new(self.done(), PollFlags::POLLIN)];
        let ready = nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO);
        matches!(ready, Ok(1)) && self.shared.done.read().is_ok()
    }

    /// Posts a round for all senders.
    pub(super) fn post(&self, work: Arc<Work>) {
        let mut board = self.shared.board();
        board.posts += 1;
        board.work = Some(work);
        drop(board);
        self.shared.posted.notify_all();
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        // They may wait for work or for the peer; both end here.
        self.shared.stop.fail(ChannelError::Stopped);
        self.shared.posted.notify_all();
        for link in &self.links {
            link.close();
        }
        for thread in self.threads.drain(..) {
            // A panic in a sender was reported as the failure that it is.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next work after `seen` posts.
    fn next(&self, seen: &mut u64) -> Result<Arc<Work>, ChannelError> {
        // The session's end does not signal the condition: look now and then.
        const LOOK: Duration = Duration::from_millis(50);
        let mut board = self.board();
        loop {
            self.stop.check()?;
            if board.posts > *seen
                && let Some(work) = &board.work
            {
                *seen = board.posts;
                return Ok(Arc::clone(work));
            }
            board = self
                .posted
                .wait_timeout(board, LOOK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// One sender's life: a round after the other, until the last.
fn run(shared: &Shared, link: &Link, stream: usize) -> Result<(), ChannelError> {
    let mut encoder = Encoder::new(&shared.regions, &shared.written, shared.means);
    let mut seen = 0;
    loop {
        let work = shared.next(&mut seen)?;
        if !work.last || shared.means.striped_final || stream == 0 {
            copy(shared, link, &work, &mut encoder)?;
        }
        if work.last {
            link.send(&Message::Last, "ending the last round")?;
            return Ok(());
        }
        let started = Instant::now();
        link.send(&Message::Round(work.number), "ending a round")?;
        match link.receive(Patience::Session, "waiting for the end of a round")? {
            Message::Round(number) if number == work.number => {}
            other => {
                return Err(ChannelError::Unexpected {
                    got: other.kind(),
                    wanted: "the acknowledgement of the round",
                });
            }
        }
        add_ns(&work.sending_ns, started.elapsed());
        if work.finish_one() {
            // It fails only when the counter is full, and then it is readable.
            let _ = shared.done.write(1);
        }
    }
}

fn copy(
    shared: &Shared,
    link: &Link,
    work: &Work,
    encoder: &mut Encoder<'_>,
) -> Result<(), ChannelError> {
    while let Some(claim) = work.claim() {
        if work.clear {
            shared
                .log
                .0
                .clear(claim.region, claim.first_page, claim.words)
                .map_err(ChannelError::Log)?;
        }
        for page in claim.pages() {
            encoder.add(claim.region, page)?;
            if encoder.is_full(work.frame_pages) {
                flush(shared, link, work, encoder)?;
            }
        }
        // Zero pages make no frames: a scan of nothing but those ends here.
        shared.stop.check()?;
    }
    flush(shared, link, work, encoder)
}

fn flush(
    shared: &Shared,
    link: &Link,
    work: &Work,
    encoder: &mut Encoder<'_>,
) -> Result<(), ChannelError> {
    let started = Instant::now();
    // What is under way on a slow line may keep it busy for longer than a peer may be
    // silent: the control connection tells whether it lives.
    let tally = encoder.flush(link, Patience::Session)?;
    add_ns(&work.sending_ns, started.elapsed());
    count(&shared.progress, &tally);
    work.wire_bytes.fetch_add(tally.wire, Ordering::Relaxed);
    if !work.last {
        shared.pace.hold(tally.wire, link)?;
    }
    Ok(())
}

fn add_ns(to: &AtomicU64, time: Duration) {
    let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    to.fetch_add(ns, Ordering::Relaxed);
}

fn count(progress: &Progress, tally: &Tally) {
    for (counter, value) in [
        (&progress.scanned, tally.scanned),
        (&progress.zero, tally.zero),
        (&progress.elided, tally.elided),
        (&progress.wire, tally.wire),
    ] {
        counter.fetch_add(value, Ordering::Relaxed);
    }
}

/// The bandwidth limit: one virtual line that all streams' bytes pass in turn.
#[derive(Debug)]
struct Pace {
    bytes_per_second: Option<u64>,
    /// When the line is free again, in ns.
    free: AtomicU64,
}

impl Pace {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second: bytes_per_second.filter(|b| *b != 0),
            free: AtomicU64::new(0),
        }
    }

    /// Waits until `bytes` have passed the line.
    fn hold(&self, bytes: u64, link: &Link) -> Result<(), ChannelError> {
        let Some(wait) = self.take(bytes, Moment::now().as_nanos()) else {
            return Ok(());
        };
        // Nothing of the socket is waited for: only the time, or the end.
        link.poll(
            &[],
            PollFlags::empty(),
            Patience::For(wait),
            "keeping the bandwidth",
        )?;
        Ok(())
    }

    fn take(&self, bytes: u64, now: u64) -> Option<Duration> {
        let rate = u128::from(self.bytes_per_second?);
        let ns = u128::from(bytes) * 1_000_000_000 / rate;
        let ns = u64::try_from(ns).unwrap_or(u64::MAX);
        let passed = |free: u64| free.max(now).saturating_add(ns);
        let before = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                Some(passed(free))
            })
            .unwrap_or(now);
        Some(Duration::from_nanos(passed(before) - now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_lets_as_many_bytes_pass_as_asked() {
        let pace = Pace::new(Some(1000));
        assert_eq!(pace.take(500, 10), Some(Duration::from_millis(500)));
        // The second waits for the first.
        assert_eq!(pace.take(500, 10), Some(Duration::from_secs(1)));
        // A line that was idle owes nothing.
        let later = 5_000_000_010;
        assert_eq!(pace.take(100, later), Some(Duration::from_millis(100)));
        assert_eq!(Pace::new(None).take(1 << 40, 0), None);
        assert_eq!(Pace::new(Some(0)).take(1 << 40, 0), None);
    }
}
