//! The threads that receive pages, one for each data connection.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::land::Landing;
use crate::channel::{ChannelError, Link, Patience, Stop, message_of};
use crate::memory::Region;
use crate::stats::Progress;
use crate::wire::message::Message;
use crate::wire::{HEADER_BYTES, Kind};

#[derive(Debug)]
struct Shared {
    regions: Vec<Region>,
    through_file: Vec<bool>,
    progress: Arc<Progress>,
    stop: Stop,
    /// Streams that have not seen LAST.
    open: Mutex<usize>,
    closed: Condvar,
}

/// The receivers of one migration. Dropping it ends and joins them.
#[derive(Debug)]
pub(super) struct Receivers {
    shared: Arc<Shared>,
    links: Vec<Arc<Link>>,
    threads: Vec<JoinHandle<()>>,
}

impl Receivers {
    pub(super) fn start(
        regions: &[Region],
        links: Vec<Link>,
        through_file: Vec<bool>,
        progress: Arc<Progress>,
        stop: &Stop,
    ) -> Result<Self, ChannelError> {
        let shared = Arc::new(Shared {
            regions: regions.to_vec(),
            through_file,
            progress,
            stop: stop.clone(),
            open: Mutex::new(links.len()),
            closed: Condvar::new(),
        });
        let mut receivers = Self {
            shared,
            links: links.into_iter().map(Arc::new).collect(),
            threads: Vec::new(),
        };
        for (index, link) in receivers.links.iter().enumerate() {
            let (shared, link) = (Arc::clone(&receivers.shared), Arc::clone(link));
            let thread = thread::Builder::new()
                .name(format!("receive{index}"))
                .spawn(move || match run(&shared, &link) {
                    Ok(()) => shared.close_one(),
                    Err(error) => {
                        shared.stop.fail(error);
                        shared.closed.notify_all();
                        // The source's sender must not wait for us.
                        link.close();
                    }
                })
                .map_err(|source| ChannelError::Io {
                    doing: "starting the threads that receive",
                    source,
                })?;
            receivers.threads.push(thread);
        }
        Ok(receivers)
    }

    fn received(&self) -> u64 {
        self.links.iter().map(|link| link.received()).sum()
    }

    /// Waits until every stream has ended, so that memory is complete. They may take
    /// as long as they must, but not stand still for `limit`; `tell` is called now
    /// and then while they do not.
    pub(super) fn await_last(
        &self,
        limit: Duration,
        tell: impl Fn() -> Result<(), ChannelError>,
    ) -> Result<(), ChannelError> {
        // The session's end does not always signal the condition.
        const LOOK: Duration = Duration::from_millis(50);
        const BEAT: Duration = Duration::from_millis(500);
        let mut deadline = Instant::now() + limit;
        let (mut told, mut before) = (Instant::now(), self.received());
        let mut open = self
            .shared
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while *open != 0 {
            self.shared.stop.check()?;
            if told.elapsed() >= BEAT && self.received() != before {
                (told, before) = (Instant::now(), self.received());
                deadline = told + limit;
                tell()?;
            }
            if Instant::now() >= deadline {
                return Err(ChannelError::Stalled {
                    doing: "receiving the last pages",
                    limit,
                });
            }
            open = self
                .shared
                .closed
                .wait_timeout(open, LOOK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.shared.stop.fail(ChannelError::Stopped);
        for link in &self.links {
            link.close();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn close_one(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.closed.notify_all();
    }
}

/// One receiver's life: frames, until LAST.
fn run(shared: &Shared, link: &Link) -> Result<(), ChannelError> {
    const DOING: &str = "receiving pages";
    let mut landing = Landing::new(&shared.regions, &shared.through_file);
    let mut body = Vec::new();
    loop {
        // A source that sends without a pause never makes us wait, and wait is
        // where the end of a session is noticed.
        shared.stop.check()?;
        // Between frames the source may be busy for long: the control connection
        // tells whether it lives.
        let header = link.receive_header(Patience::Session, DOING)?;
        link.receive_body(&header, Patience::Session, &mut body, DOING)?;
        if header.kind == Kind::Pages {
            landing.receive(link, &header, &body)?;
            let bytes = HEADER_BYTES + header.body as usize + header.payload as usize;
            shared
                .progress
                .wire
                .fetch_add(bytes as u64, Ordering::Relaxed);
            continue;
        }
        match message_of(&header, &body)? {
            Message::Round(number) => link.send(&Message::Round(number), "ending a round")?,
            Message::Last => return Ok(()),
            other => {
                return Err(ChannelError::Unexpected {
                    got: other.kind(),
                    wanted: "PAGES, ROUND or LAST",
                });
            }
        }
    }
}
