//! The guest's beats on both sides, read and time-stamped by one thread.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

/// Text kept of each side: beyond it a guest says nothing that is looked for.
const KEPT: usize = 32 << 20;

/// A side of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where the guest leaves.
    Source,
    /// Where it comes.
    Destination,
}

/// What came from one side.
#[derive(Debug, Clone, Default)]
struct Heard {
    text: Vec<u8>,
    count: usize,
    first: Option<Instant>,
    last: Option<Instant>,
}

#[derive(Debug, Default)]
struct Log {
    sides: [Heard; 2],
    previous: Option<Instant>,
    longest: Duration,
}

/// The reader of both serial lines.
#[derive(Debug)]
pub struct Beats {
    log: Arc<Mutex<Log>>,
    /// Dropped, it ends the reader.
    stop: Option<OwnedFd>,
    reader: Option<JoinHandle<()>>,
    /// Whether the reader has a real-time priority.
    pub real_time: bool,
}

impl Beats {
    /// Starts the reader; the two descriptors are where source and destination write.
    ///
    /// # Errors
    /// When pipes or the thread cannot be made.
    pub fn start() -> io::Result<(Self, [OwnedFd; 2])> {
        let (from_source, source) = pipe2(OFlag::O_CLOEXEC)?;
        let (from_destination, destination) = pipe2(OFlag::O_CLOEXEC)?;
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC)?;
        let log = Arc::new(Mutex::new(Log::default()));
        let shared = Arc::clone(&log);
        let pipes = [File::from(from_source), File::from(from_destination)];
        let (tell, told) = std::sync::mpsc::channel();
        let reader = thread::Builder::new()
            .name("beats".to_owned())
            .spawn(move || {
                // Its own delay would count as the guest's.
                let _ = tell.send(become_real_time());
                read(pipes, &stopped, &shared);
            })?;
        let beats = Self {
            log,
            stop: Some(stop),
            reader: Some(reader),
            real_time: told.recv().unwrap_or(false),
        };
        Ok((beats, [source, destination]))
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last number after ` key=` among the lines of `topic` on `side`.
    pub fn last_number(&self, side: Side, topic: &str, key: &str) -> Option<u64> {
        let log = self.log();
        last_number(&log.sides[side as usize].text, topic, key)
    }

    /// Whether `side` has printed `text`.
    pub fn has(&self, side: Side, text: &str) -> bool {
        let log = self.log();
        let heard = &log.sides[side as usize].text;
        heard
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }

    /// The end of what `side` has printed.
    pub fn tail(&self, side: Side) -> String {
        let log = self.log();
        let text = &log.sides[side as usize].text;
        let from = text.len().saturating_sub(400);
        String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
    }

    /// Bytes from `side` so far.
    pub fn count(&self, side: Side) -> usize {
        self.log().sides[side as usize].count
    }

    /// Forgets the longest silence so far.
    pub fn forget_silence(&self) {
        self.log().longest = Duration::ZERO;
    }

    /// The longest time between two reads from either side since then.
    pub fn longest_silence(&self) -> Duration {
        self.log().longest
    }

    /// From the source's last byte to the destination's first; negative when they overlap: then
    /// something held bytes back.
    pub fn gap_us(&self) -> Option<f64> {
        let log = self.log();
        let [source, destination] = &log.sides;
        let (last, first) = (source.last?, destination.first?);
        let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
        Some(match first.checked_duration_since(last) {
            Some(gap) => micros(gap),
            None => -micros(last.duration_since(first)),
        })
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Reads until told to stop; `log` has what came.
fn read(pipes: [File; 2], stopped: &OwnedFd, log: &Mutex<Log>) {
    let mut open: Vec<(Side, File)> = [Side::Source, Side::Destination]
        .into_iter()
        .zip(pipes)
        .collect();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut fds = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            open.iter()
                .map(|(_, pipe)| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return,
        }
        let now = Instant::now();
        let mut ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready.remove(0) {
            return;
        }
        let mut ready = ready.into_iter();
        open.retain_mut(|(side, pipe)| {
            if !ready.next().unwrap_or(false) {
                return true;
            }
            match pipe.read(&mut buffer) {
                Ok(count @ 1..) => {
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.hear(*side, buffer.get(..count).unwrap_or_default(), now);
                    true
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
                Ok(_) | Err(_) => false,
            }
        });
    }
}

impl Log {
    fn hear(&mut self, side: Side, bytes: &[u8], now: Instant) {
        if let Some(previous) = self.previous.replace(now) {
            self.longest = self.longest.max(now.saturating_duration_since(previous));
        }
        let heard = &mut self.sides[side as usize];
        heard.count += bytes.len();
        heard.first.get_or_insert(now);
        heard.last = Some(now);
        let room = KEPT.saturating_sub(heard.text.len());
        heard.text.extend(bytes.iter().take(room));
    }
}

/// Whether the calling thread is in a real-time class now; only root may be.
fn become_real_time() -> bool {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: `param` is alive for the call; pid 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) == 0 }
}

fn last_number(text: &[u8], topic: &str, key: &str) -> Option<u64> {
    let text = String::from_utf8_lossy(text);
    let start = format!("@{topic} ");
    let key = format!("{key}=");
    let line = text.lines().rfind(|line| line.starts_with(&start))?;
    let value = line.split(' ').find_map(|word| word.strip_prefix(&key))?;
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_gap_is_between_the_sides() {
        let (beats, [source, destination]) = Beats::start().unwrap();
        let (mut source, mut destination) = (File::from(source), File::from(destination));
        source.write_all(b"abc").unwrap();
        while beats.count(Side::Source) < 3 {
            thread::yield_now();
        }
        assert_eq!(beats.gap_us(), None);
        thread::sleep(Duration::from_millis(30));
        destination.write_all(b"d").unwrap();
        while beats.count(Side::Destination) < 1 {
            thread::yield_now();
        }
        let gap = beats.gap_us().unwrap();
        assert!(gap >= 30_000.0, "{gap}");
        assert!(beats.longest_silence() >= Duration::from_millis(30));
        assert!(beats.has(Side::Source, "bc") && !beats.has(Side::Source, "d"));
    }

    #[test]
    fn numbers_come_from_the_last_line_of_a_topic() {
        let text = b"abc\n@report turns=1 dirtied=20\nxyz\n@report turns=2 dirtied=40\nab";
        assert_eq!(last_number(text, "report", "dirtied"), Some(40));
        assert_eq!(last_number(text, "report", "nothing"), None);
        assert_eq!(last_number(text, "end", "dirtied"), None);
    }
}
