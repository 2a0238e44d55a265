//! The arriving side: one worker thread runs [`receive`] to its end.
//!
//! ```text
//!  accept > greet > prepare > receive (control here, pages in threads) > restore > READY
//!      any failure up to here: abandon                                              |
//!                                                  HANDOVER > run, exactly once > RUNNING
//! ```

mod agreement;
mod error;
mod land;
mod populate;
mod receiver;

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::channel::{
    ChannelError, Incoming, Link, Listener, Patience, Stop, message_of, receive_with_files,
};
use crate::clock::boot_id;
use crate::guest::{Destination, Prepared, Refusal};
use crate::memory::{PAGE, Region};
use crate::options::Options;
use crate::phase::Phase;
use crate::stats::{Moment, Progress, Snapshot, Step, micros};
use crate::wire::message::{Description, Extent, Hello, Message, Role, Verdict};
use crate::wire::{HEADER_BYTES, Header, VERSIONS, choose_version};

pub use error::ReceiveError;

use agreement::{bounded, compare};
use populate::Populate;
use receiver::Receivers;

/// The guest came, and runs.
#[derive(Debug)]
pub struct Arrived {
    /// When the first vCPU ran.
    pub running_since: Moment,
    /// What it took.
    pub snapshot: Snapshot,
}

/// Waits for a guest at `door`, and runs it.
///
/// # Errors
/// The guest did not come: it is the source's, and nothing is left behind here.
/// [`ReceiveError::Run`] is the exception: the guest is ours but does not run.
pub fn receive<D: Destination>(
    door: &Listener,
    guest: &mut D,
    options: &Options,
    progress: &Arc<Progress>,
    cancel: &Cancel,
) -> Result<Arrived, ReceiveError> {
    let stop = Stop::new(cancel).map_err(|source| ChannelError::Io {
        doing: "preparing",
        source,
    })?;
    let (control, hello) = await_source(door, &stop, options)?;
    progress.start_anew();
    let next = || door.accept(&stop, Some(options.stall));
    serve(control, hello, next, guest, options, progress)
}

/// The first connection that greets as a source does. Others (a port scan, a
/// check for life) are turned away, and the next is waited for.
fn await_source(
    door: &Listener,
    stop: &Stop,
    options: &Options,
) -> Result<(Link, Hello), ReceiveError> {
    loop {
        let link = Link::new(door.accept(stop, None)?, stop.clone(), options.stall)?;
        match greeting(&link) {
            Ok(
                hello @ Hello {
                    role: Role::Control { .. },
                    ..
                },
            ) => return Ok((link, hello)),
            Err(end) if end.is_asked_for() => return Err(end.into()),
            Ok(_) | Err(_) => tracing::info!("a connection that is no migration was turned away"),
        }
    }
}

fn greeting(link: &Link) -> Result<Hello, ChannelError> {
    const DOING: &str = "waiting for a greeting";
    // A peer that connects and says nothing must not keep the door shut.
    let patience = Patience::For(link.stall().min(Duration::from_secs(2)));
    match link.receive(patience, DOING)? {
        Message::Hello(hello) => Ok(hello),
        other => Err(ChannelError::Unexpected {
            got: other.kind(),
            wanted: "HELLO",
        }),
    }
}

/// Everything after the source's greeting. `next` gives the connections that
/// follow.
pub(crate) fn serve<D: Destination>(
    control: Link,
    hello: Hello,
    next: impl FnMut() -> Result<OwnedFd, ChannelError>,
    guest: &mut D,
    options: &Options,
    progress: &Arc<Progress>,
) -> Result<Arrived, ReceiveError> {
    let streams = match hello.role {
        Role::Control { streams } => streams,
        Role::Data { .. } => 0,
    };
    let mut driver = Driver {
        control,
        streams,
        guest,
        options,
        progress,
        built: false,
        phase: None,
        given: None,
        receivers: None,
        populate: None,
    };
    let result = driver.until_ready(&hello, next);
    match result {
        Ok(()) => driver.run(),
        Err(error) => Err(driver.unwind(error)),
    }
}

struct Driver<'a, D: Destination> {
    control: Link,
    guest: &'a mut D,
    options: &'a Options,
    progress: &'a Arc<Progress>,
    /// How many data connections there are; none for local handover.
    streams: u16,
    /// `prepare` succeeded, so `abandon` is due on failure.
    built: bool,
    /// What is being done, and since when.
    phase: Option<(Phase, Moment)>,
    /// When the guest was given to us, and how long it had stood still.
    given: Option<(Moment, Duration)>,
    receivers: Option<Receivers>,
    populate: Option<Populate>,
}

impl<D: Destination> Driver<'_, D> {
    fn enter(&mut self, phase: Phase) {
        self.leave();
        self.phase = Some((phase, Moment::now()));
        self.progress.enter(phase);
    }

    fn leave(&mut self) {
        if let Some((phase, began)) = self.phase.take() {
            self.progress.leave(phase, Moment::now().since(began));
        }
    }

    /// Everything up to the hand-over: when it returns, the guest is ours.
    fn until_ready(
        &mut self,
        hello: &Hello,
        next: impl FnMut() -> Result<OwnedFd, ChannelError>,
    ) -> Result<(), ReceiveError> {
        self.enter(Phase::Describe);
        self.agree(hello)?;
        self.progress.tell(Step::Announced);
        let data = self.accept_streams(hello, next)?;
        let regions = self.prepare()?.regions;
        // hugetlbfs takes no writes, and warm memory gains nothing by them.
        let through_file = |region: &Region| {
            self.options.means.write_through_file
                && region.layout().page_bytes == PAGE
                && !is_warm(region)
        };
        let through_file: Vec<_> = regions.iter().map(through_file).collect();
        if !data.is_empty() {
            let receivers = Receivers::start(
                &regions,
                data,
                through_file.clone(),
                Arc::clone(self.progress),
                self.control.stop(),
            )?;
            self.receivers = Some(receivers);
        }
        let ahead = self.options.means.populate_ahead && !regions.iter().all(is_warm);
        if ahead && self.receivers.is_some() && through_file.contains(&false) {
            self.populate = Populate::start(regions, through_file, self.control.stop());
        }
        self.enter(Phase::Copy);
        let state = self.await_state()?;
        self.enter(Phase::Last);
        if let Some(receivers) = &self.receivers {
            receivers.await_last(self.options.stopped, || self.give_sign())?;
        }
        // What is not populated by now is done by whoever touches it.
        if let Some(populate) = &self.populate {
            populate.end();
        }
        self.enter(Phase::State);
        self.guest.restore(&state).map_err(ReceiveError::Restore)?;
        // From READY on the source may give the guest away at any moment, so that
        // a cancel comes too late here; it does not at the source.
        self.control.stop().check()?;
        self.control
            .send(&Message::Ready, "saying that it is restored")?;
        self.await_handover()
    }

    fn agree(&self, hello: &Hello) -> Result<(), ReceiveError> {
        let version =
            choose_version(VERSIONS, hello.oldest..=hello.newest).ok_or(ReceiveError::Version {
                theirs_oldest: hello.oldest,
                theirs_newest: hello.newest,
                ours_oldest: *VERSIONS.start(),
                ours_newest: *VERSIONS.end(),
            })?;
        self.control
            .send(&Message::Welcome(version), "greeting the source")?;
        Ok(())
    }

    fn accept_streams(
        &self,
        hello: &Hello,
        mut next: impl FnMut() -> Result<OwnedFd, ChannelError>,
    ) -> Result<Vec<Link>, ReceiveError> {
        let mut links: Vec<Option<Link>> = (0..self.streams).map(|_| None).collect();
        while links.iter().any(Option::is_none) {
            let socket = next()?;
            let link = Link::new(socket, self.control.stop().clone(), self.control.stall())?;
            let index = match greeting(&link) {
                Ok(Hello {
                    session,
                    role: Role::Data { index },
                    ..
                }) if session == hello.session => index,
                Err(end) if end.is_asked_for() => return Err(end.into()),
                // Somebody else's connection.
                Ok(_) | Err(_) => continue,
            };
            match links.get_mut(usize::from(index)) {
                Some(place @ None) => *place = Some(link),
                Some(Some(_)) | None => return Err(ReceiveError::Stream(index)),
            }
        }
        Ok(links.into_iter().flatten().collect())
    }

    /// Answers about the clock until the description comes; has the guest built.
    fn prepare(&mut self) -> Result<Prepared, ReceiveError> {
        let (description, files) = self.await_description()?;
        let local = description.local;
        if local != (self.streams == 0) {
            return Err(ChannelError::Unexpected {
                got: crate::wire::Kind::Description,
                wanted: "data connections, or local handover",
            }
            .into());
        }
        let built = if local {
            let mut memory = files;
            if memory.len() >= description.regions.len() {
                let devices = memory.split_off(description.regions.len());
                self.guest
                    .prepare_with_files(&description.guest, memory, devices)
            } else {
                Err(Refusal(vec![format!(
                    "{} files came for {} regions of memory",
                    memory.len(),
                    description.regions.len()
                )]))
            }
        } else {
            self.guest.prepare(&description.guest)
        };
        let checked = built.and_then(|prepared| {
            self.built = true;
            compare(&description, &prepared)?;
            Ok(prepared)
        });
        match checked {
            Ok(prepared) => {
                let verdict = Verdict::Accept {
                    restore_us: micros(prepared.restore_cost),
                };
                self.control
                    .send(&Message::Verdict(verdict), "accepting the guest")?;
                Ok(prepared)
            }
            Err(Refusal(reasons)) => {
                let verdict = Message::Verdict(Verdict::Refuse(bounded(&reasons)));
                self.control.send(&verdict, "refusing the guest")?;
                Err(ReceiveError::Refused(reasons))
            }
        }
    }

    fn await_description(&self) -> Result<(Description, Vec<OwnedFd>), ReceiveError> {
        const DOING: &str = "waiting for the guest's description";
        loop {
            let patience = Patience::For(self.control.stall());
            // Files come beside the first byte of a frame.
            self.control
                .wait(nix::poll::PollFlags::POLLIN, patience, DOING)?;
            let (first, files) = receive_with_files(&self.control, DOING)?;
            let mut bytes = [0; HEADER_BYTES];
            bytes[0] = first;
            let mut into = Incoming::default();
            into.bytes(&mut bytes[1..]);
            self.control.receive_all(into, patience, DOING)?;
            let header = Header::parse(&bytes).map_err(ChannelError::from)?;
            let mut body = Vec::new();
            self.control
                .receive_body(&header, patience, &mut body, DOING)?;
            match message_of(&header, &body)? {
                Message::Description(description) => return Ok((description, files)),
                message => self.answer(&message, "DESCRIPTION")?,
            }
        }
    }

    /// Answers a question about the clock; anything else is out of place.
    fn answer(&self, message: &Message, wanted: &'static str) -> Result<(), ChannelError> {
        let Message::Clock {
            asked,
            answered: None,
            ..
        } = *message
        else {
            return Err(ChannelError::Unexpected {
                got: message.kind(),
                wanted,
            });
        };
        self.tell_time(asked)
    }

    fn tell_time(&self, asked: u64) -> Result<(), ChannelError> {
        let answer = Message::Clock {
            asked,
            answered: Some(Moment::now().as_nanos()),
            boot: boot_id(),
        };
        self.control.send(&answer, "telling the time")
    }

    /// The answer to a question that was not asked: the source hears that pages come.
    fn give_sign(&self) -> Result<(), ChannelError> {
        self.tell_time(Moment::now().as_nanos())
    }

    /// Memory travels; announcements and signs of life come here meanwhile.
    fn await_state(&mut self) -> Result<Vec<u8>, ReceiveError> {
        const DOING: &str = "receiving the guest";
        loop {
            let patience = Patience::For(self.control.stall());
            match self.control.receive(patience, DOING)? {
                Message::Extents(extents) => {
                    self.note_present(&extents);
                    if let Some(populate) = &self.populate {
                        populate.announce(extents);
                    }
                }
                Message::State(state) => return Ok(state),
                message => self.answer(&message, "STATE")?,
            }
        }
    }

    fn note_present(&self, extents: &[Extent]) {
        let bytes = extents
            .iter()
            .map(|extent| extent.count.saturating_mul(PAGE))
            .fold(0_u64, u64::saturating_add);
        let present = &self.progress.present;
        let sum = present.load(Ordering::Relaxed).saturating_add(bytes);
        present.store(sum, Ordering::Relaxed);
    }

    fn await_handover(&mut self) -> Result<(), ReceiveError> {
        const DOING: &str = "waiting for the hand-over";
        self.enter(Phase::Handover);
        loop {
            let patience = Patience::Committed(self.options.stopped);
            match self.control.receive(patience, DOING)? {
                Message::Handover(stood) => {
                    // The word itself took half a round trip.
                    self.given = stood.map(|stood| {
                        let ns = stood.so_far.saturating_add(stood.round_trip / 2);
                        (Moment::now(), Duration::from_nanos(ns))
                    });
                    return Ok(());
                }
                message => self.answer(&message, "HANDOVER")?,
            }
        }
    }

    /// The guest is ours. Whatever happens now, the source does not run it.
    fn run(mut self) -> Result<Arrived, ReceiveError> {
        self.enter(Phase::Running);
        let patience = Patience::Committed(Duration::from_secs(1));
        let since = match self.guest.run() {
            Ok(since) => since,
            Err(cause) => {
                let reason = format!("it does not run here: {}", crate::chain(cause.as_ref()));
                self.control.part(reason);
                return Err(ReceiveError::Run(cause));
            }
        };
        if let Some((given, stood)) = self.given {
            let downtime = stood.saturating_add(since.since(given));
            self.progress
                .downtime_us
                .store(micros(downtime), Ordering::Relaxed);
        }
        // The guest runs whether the source hears it or not.
        let message = Message::Running(since.as_nanos());
        if let Err(error) = self
            .control
            .send_patiently(&message, patience, "saying that it runs")
        {
            tracing::warn!(%error, "the source could not be told that the guest runs here");
        }
        self.receivers = None;
        self.populate = None;
        self.leave();
        self.progress.finish();
        Ok(Arrived {
            running_since: since,
            snapshot: self.progress.snapshot(),
        })
    }

    /// The guest does not come: the source hears why, and nothing stays.
    fn unwind(mut self, error: ReceiveError) -> ReceiveError {
        let error = match error {
            ReceiveError::Channel(cause) => ReceiveError::Channel(self.control.explain(cause)),
            other => other,
        };
        // The source first, unless a refusal has told it already: its guest may be
        // standing still.
        if !matches!(error, ReceiveError::Refused(_)) {
            self.control.part(crate::chain(&error));
        }
        self.control.close();
        self.receivers = None;
        self.populate = None;
        if self.built {
            self.guest.abandon();
        }
        self.leave();
        self.progress.finish();
        error
    }
}

/// True for memory that was allocated when it was built (prefault): no guest has
/// touched it, so what its file holds says so.
fn is_warm(region: &Region) -> bool {
    const BLOCK_BYTES: u64 = 512;
    let facts = region.file().metadata();
    facts.is_ok_and(|facts| facts.blocks() * BLOCK_BYTES >= facts.size())
}
