//! The source's end of the control connection.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::error::SendError;
use nix::poll::PollFlags;

use crate::address::Address;
use crate::cancel::Cancel;
use crate::channel::{ChannelError, Link, Patience, Stop, connect, send_with_files};
use crate::clock::{self, PeerClock};
use crate::memory::Region;
use crate::options::Options;
use crate::stats::Moment;
use crate::wire::message::{
    Description, Hello, Message, RegionFact, Role, STREAMS, Standstill, Verdict,
};
use crate::wire::{VERSIONS, WITH_STANDSTILL};

#[derive(Debug)]
pub(super) struct Session {
    pub(super) control: Link,
    pub(super) data: Vec<Link>,
    pub(super) clock: PeerClock,
    version: u16,
    /// When the last sign of life was given.
    beat: Cell<Moment>,
    /// Since when one waits for its answer.
    unanswered: Cell<Option<Moment>>,
}

/// How often the destination hears that we live: well within its patience.
const BEAT: Duration = Duration::from_millis(500);

impl Session {
    /// Connects, agrees on a version, opens the data connections.
    pub(super) fn connect(
        to: &Address,
        options: &Options,
        cancel: &Cancel,
    ) -> Result<Self, SendError> {
        const DOING: &str = "greeting the destination";
        if options.local && !matches!(to, Address::Unix(_)) {
            return Err(SendError::LocalNeedsUnix(to.to_string()));
        }
        if !(1..=STREAMS).contains(&options.streams) {
            return Err(SendError::Streams(options.streams));
        }
        let streams = if options.local { 0 } else { options.streams };
        let stop = Stop::new(cancel).map_err(|source| ChannelError::Io {
            doing: "preparing",
            source,
        })?;
        let session = session_number();
        let open = |role| -> Result<Link, ChannelError> {
            let socket = connect(to, &stop, options.stall)?;
            let link = Link::new(socket, stop.clone(), options.stall)?;
            let hello = Hello {
                oldest: *VERSIONS.start(),
                newest: *VERSIONS.end(),
                session,
                role,
            };
            link.send(&Message::Hello(hello), DOING)?;
            Ok(link)
        };
        let control = open(Role::Control { streams })?;
        let version = match control.receive(Patience::For(options.stall), DOING)? {
            Message::Welcome(version) if VERSIONS.contains(&version) => version,
            Message::Welcome(version) => return Err(SendError::Version(version)),
            other => return Err(unexpected(&other, "WELCOME")),
        };
        let data = (0..streams)
            .map(|index| open(Role::Data { index }))
            .collect::<Result<_, _>>()?;
        let clock = clock::compare(&control)?;
        Ok(Self {
            control,
            data,
            clock,
            version,
            beat: Cell::new(Moment::now()),
            unanswered: Cell::new(None),
        })
    }

    /// Sends the description; waits until the destination is built.
    pub(super) fn describe(
        &self,
        regions: &[Region],
        guest: Vec<u8>,
        devices: &[OwnedFd],
        options: &Options,
    ) -> Result<Duration, SendError> {
        let facts = regions.iter().map(|region| RegionFact {
            guest_address: region.layout().guest_address,
            size_bytes: region.layout().size_bytes,
            page_bytes: region.layout().page_bytes,
        });
        let message = Message::Description(Description {
            local: options.local,
            regions: facts.collect(),
            guest,
        });
        if options.local {
            let memory = regions.iter().map(|region| region.file().as_fd());
            let files: Vec<_> = memory.chain(devices.iter().map(AsFd::as_fd)).collect();
            send_with_files(
                &self.control,
                &message.to_bytes(),
                &files,
                "passing memory and devices as files",
            )?;
        } else {
            self.control.send(&message, "describing the guest")?;
        }
        let patience = Patience::For(options.prepare);
        match self
            .control
            .receive(patience, "waiting until the destination is built")?
        {
            Message::Verdict(Verdict::Accept { restore_us }) => {
                Ok(Duration::from_micros(restore_us.min(60_000_000)))
            }
            Message::Verdict(Verdict::Refuse(reasons)) => Err(SendError::Refused(reasons)),
            other => Err(unexpected(&other, "VERDICT")),
        }
    }

    /// Waits for `done` or for `patience`, gives a sign of life now and then, and
    /// notices when the destination gives up, or gives none. Whoever sends pages
    /// relies on it: a stream that is slow may stand still for long.
    pub(super) fn watch(&self, done: BorrowedFd<'_>, patience: Duration) -> Result<(), SendError> {
        const DOING: &str = "copying memory";
        self.control.poll(
            &[done],
            PollFlags::POLLIN,
            Patience::For(patience.min(BEAT)),
            DOING,
        )?;
        let now = Moment::now();
        if now.since(self.beat.get()) >= BEAT {
            self.beat.set(now);
            let question = clock::question(clock::boot_id());
            self.control.send(&question, "giving a sign of life")?;
            self.unanswered.set(self.unanswered.get().or(Some(now)));
        }
        while self.control.is_readable() {
            let patience = Patience::For(self.control.stall());
            match self.control.receive(patience, DOING)? {
                Message::Clock { .. } => self.unanswered.set(None),
                other => return Err(unexpected(&other, "nothing but CLOCK")),
            }
        }
        let limit = self.control.stall();
        let silent = |since| Moment::now().since(since) >= limit;
        if self.unanswered.get().is_some_and(silent) {
            return Err(ChannelError::Stalled {
                doing: DOING,
                limit,
            }
            .into());
        }
        Ok(())
    }

    pub(super) fn await_ready(&self, limit: Duration) -> Result<(), ChannelError> {
        self.await_message(
            Patience::For(limit),
            "waiting for the restored state",
            |m| matches!(m, Message::Ready).then_some(()),
        )
    }

    /// Gives away the guest, which stands still since `stopped`. On an error it was
    /// not given: the kernel did not take the whole frame, so it cannot arrive.
    pub(super) fn hand_over(&self, stopped: Moment) -> Result<(), ChannelError> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.control.stop().check()?;
        let patience = Patience::Committed(self.control.stall());
        let stood = (self.version >= WITH_STANDSTILL).then(|| Standstill {
            so_far: nanos(Moment::now().since(stopped)),
            round_trip: nanos(self.clock.round_trip),
        });
        let message = Message::Handover(stood);
        let sent = self
            .control
            .send_patiently(&message, patience, "handing over");
        if sent.is_err() {
            self.control.close();
        }
        sent
    }

    /// When the guest ran at the destination, by its clock.
    pub(super) fn await_running(&self, limit: Duration) -> Result<Moment, ChannelError> {
        let patience = Patience::Committed(limit);
        self.await_message(
            patience,
            "waiting to hear that the guest runs",
            |m| match m {
                Message::Running(since) => Some(Moment::from_nanos(*since)),
                _ => None,
            },
        )
    }

    fn await_message<T>(
        &self,
        patience: Patience,
        doing: &'static str,
        wanted: impl Fn(&Message) -> Option<T>,
    ) -> Result<T, ChannelError> {
        loop {
            let message = self.control.receive(patience, doing)?;
            if let Some(value) = wanted(&message) {
                return Ok(value);
            }
            // Answers to signs of life may still be under way, and the destination
            // gives some of its own while the last pages come.
            if !matches!(message, Message::Clock { .. }) {
                return Err(ChannelError::Unexpected {
                    got: message.kind(),
                    wanted: doing,
                });
            }
        }
    }

    /// The better of several reasons; see [`Link::explain`].
    pub(super) fn explain(&self, error: SendError) -> SendError {
        match error {
            SendError::Channel(cause) => SendError::Channel(self.control.explain(cause)),
            other => other,
        }
    }

    /// Tells the destination why it ends.
    pub(super) fn abort(&self, error: &SendError) {
        self.control.part(crate::chain(error));
    }
}

fn unexpected(got: &Message, wanted: &'static str) -> SendError {
    SendError::Channel(ChannelError::Unexpected {
        got: got.kind(),
        wanted,
    })
}

/// A number that no other migration has: it only tells connections apart, so
/// the randomness of the standard hasher's keys does.
fn session_number() -> u128 {
    let half = || u128::from(RandomState::new().hash_one(Moment::now().as_nanos()));
    half() << 64 | half()
}
