//! What runs on the device loop for a serial port: input, and output that had
//! to wait.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::escape::{EscapeDecoder, HELP, Typed};
use super::handover::Handover;
use super::outlet::Sink;
use super::{EscapeSink, Serial};

/// How much of what is typed is kept for a guest that does not read.
pub(super) const TYPED_LIMIT: usize = 4096;

/// How much is read at once: as much as the guest's FIFO takes.
const READ_SIZE: usize = super::state::FIFO_SIZE;

/// Where input comes from.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) file: File,
    /// Only a terminal has an escape key.
    escapes: Option<EscapeDecoder>,
    /// It cannot be polled because it is always ready: a regular file, `/dev/null`.
    always_ready: bool,
}

impl Input {
    pub(super) fn plain(file: File) -> Self {
        Self {
            file,
            escapes: None,
            always_ready: false,
        }
    }

    pub(super) fn terminal(file: File) -> Self {
        Self {
            escapes: Some(EscapeDecoder::default()),
            ..Self::plain(file)
        }
    }
}

/// A serial port's subscriber, and the port's owner's way to it.
#[derive(Clone, Debug)]
pub(super) struct SharedPump(Arc<Mutex<Pump>>);

impl SharedPump {
    pub(super) fn new(pump: Pump) -> Self {
        Self(Arc::new(Mutex::new(pump)))
    }

    /// Nothing is read, accepted or sent while this is held.
    pub(super) fn lock(&self) -> MutexGuard<'_, Pump> {
        // Whatever a panic left is still a pump.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MutEventSubscriber for SharedPump {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        self.lock().process(events, ops);
    }

    fn init(&mut self, ops: &mut EventOps) {
        self.lock().advance(ops);
    }
}

/// See the module.
pub(super) struct Pump {
    serial: Arc<Serial>,
    pub(super) input: Option<Input>,
    pub(super) listener: Option<UnixListener>,
    escape: EscapeSink,
    /// Read, but not given to the guest yet.
    pub(super) backlog: VecDeque<u8>,
    watched: Vec<(RawFd, EventSet)>,
    /// Input and clients are another process's, or about to be.
    pub(super) handover: Option<Handover>,
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump")
            .field("input", &self.input)
            .field("watched", &self.watched)
            .finish_non_exhaustive()
    }
}

impl Pump {
    pub(super) fn new(
        serial: Arc<Serial>,
        input: Option<Input>,
        listener: Option<UnixListener>,
        escape: EscapeSink,
        handover: Option<Handover>,
    ) -> Self {
        Self {
            serial,
            input,
            listener,
            escape,
            backlog: VecDeque::new(),
            watched: Vec::new(),
            handover,
        }
    }

    /// Gives the guest what it has room for, and the other side what it takes.
    /// Answers whether the guest has room for more.
    fn exchange(&mut self) -> bool {
        let mut port = self.serial.lock();
        let (front, _) = self.backlog.as_slices();
        // A port in loop-back mode takes nothing, and a full one is an error:
        // both mean "later".
        let taken = port.uart.enqueue_raw_bytes(front).unwrap_or(0);
        self.backlog.drain(..taken);
        port.received += taken as u64;
        let room = self.backlog.is_empty() && port.uart.fifo_capacity() > 0;
        port.waiting = !room;
        port.uart.writer_mut().drain();
        room
    }

    fn wants_input(&self, room: bool) -> bool {
        match &self.input {
            Some(_) if self.handover.is_some() => false,
            Some(input) => room || (input.escapes.is_some() && self.backlog.len() < TYPED_LIMIT),
            None => false,
        }
    }

    /// Reads once, and forgets the input at its end or when it fails.
    fn read(&mut self, ops: &mut EventOps) {
        let Some(input) = &mut self.input else {
            return;
        };
        let mut buffer = [0; READ_SIZE];
        let read = match input.file.read(&mut buffer) {
            Ok(read) if read > 0 => read,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return;
            }
            _ => {
                let fd = input.file.as_raw_fd();
                self.unwatch(Some(fd), ops);
                self.input = None;
                return;
            }
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        let Some(decoder) = &mut input.escapes else {
            self.backlog.extend(bytes);
            return;
        };
        for &byte in bytes {
            match decoder.decode(byte) {
                Typed::Pass(byte) if self.backlog.len() < TYPED_LIMIT => {
                    self.backlog.push_back(byte);
                }
                Typed::Pass(_) | Typed::Taken => (),
                Typed::Help => {
                    // The outlet takes everything, so this cannot fail.
                    let _ = self.serial.lock().uart.writer_mut().write(HELP.as_bytes());
                }
                Typed::Report(escape) => (self.escape)(escape),
            }
        }
    }

    /// Takes the next client of the socket, if there is one.
    fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        let client = listener.accept().and_then(|(stream, _)| {
            stream.set_nonblocking(true)?;
            Ok((as_file(stream.try_clone()?), as_file(stream)))
        });
        match client {
            Ok((reading, writing)) => {
                self.input = Some(Input::plain(reading));
                let mut port = self.serial.lock();
                port.uart.writer_mut().replace(Sink::Stream(writing));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Err(error) => tracing::warn!("Could not accept a client of the serial port: {error}"),
        }
    }

    /// Takes away what has gone. Descriptors leave the loop before they are
    /// closed, because their numbers are used again.
    fn part(&mut self, ops: &mut EventOps) {
        let (broken, fd) = {
            let port = self.serial.lock();
            let outlet = port.uart.writer();
            (outlet.is_broken(), outlet.stream_fd())
        };
        let client_left = self.listener.is_some() && self.input.is_none() && fd.is_some();
        if !broken && !client_left {
            return;
        }
        self.unwatch(fd, ops);
        if self.listener.is_some() {
            self.unwatch(self.input.as_ref().map(|i| i.file.as_raw_fd()), ops);
            self.input = None;
        }
        self.serial.lock().uart.writer_mut().replace(Sink::Nobody);
    }

    fn unwatch(&mut self, fd: Option<RawFd>, ops: &mut EventOps) {
        if let Some(at) = self.watched.iter().position(|&(w, _)| Some(w) == fd) {
            let (fd, _) = self.watched.swap_remove(at);
            if let Err(error) = ops.remove(Events::empty_raw(fd)) {
                tracing::debug!("Serial port: {error}");
            }
        }
    }

    /// Watches exactly what there is something to do about. What is not wanted
    /// is removed rather than masked: a hang-up cannot be masked.
    fn watch(&mut self, room: bool, ops: &mut EventOps) {
        let mut wanted = vec![(self.serial.wake.as_raw_fd(), EventSet::IN)];
        let reads = self.wants_input(room);
        match &self.input {
            Some(input) if reads && !input.always_ready => {
                wanted.push((input.file.as_raw_fd(), EventSet::IN));
            }
            None if self.handover.is_none() => {
                wanted.extend(self.listener.iter().map(|l| (l.as_raw_fd(), EventSet::IN)))
            }
            _ => (),
        }
        let stalled = self.serial.lock().uart.writer().waits_for();
        wanted.extend(stalled.map(|fd| (fd, EventSet::OUT)));

        let gone: Vec<_> = self
            .watched
            .iter()
            .filter(|entry| !wanted.contains(entry))
            .map(|&(fd, _)| fd)
            .collect();
        for fd in gone {
            self.unwatch(Some(fd), ops);
        }
        for (fd, set) in wanted {
            if self.watched.contains(&(fd, set)) {
                continue;
            }
            match ops.add(Events::new_raw(fd, set)) {
                Ok(()) => self.watched.push((fd, set)),
                // EPERM: a file that is always ready. Only input needs more than
                // that; output that is always ready never waits.
                Err(error) => match &mut self.input {
                    Some(input) if input.file.as_raw_fd() == fd => input.always_ready = true,
                    _ => tracing::warn!("Could not wait for the serial port: {error}"),
                },
            }
        }
    }

    /// Does everything that can be done now, and waits for the rest.
    fn advance(&mut self, ops: &mut EventOps) {
        loop {
            let room = self.exchange();
            self.part(ops);
            self.watch(room, ops);
            let reads = self.wants_input(room);
            match &self.input {
                Some(input) if input.always_ready && reads => self.read(ops),
                _ => return,
            }
        }
    }
}

impl Pump {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        if fd == self.serial.wake.as_raw_fd() {
            // Non-blocking; nothing to read means that it was read before.
            let _ = self.serial.wake.read();
        } else if self.handover.is_some() {
            // It was under way when the handover began.
        } else if self.listener.as_ref().is_some_and(|l| l.as_raw_fd() == fd) {
            self.accept();
        } else if let Some(input) = &self.input
            && input.file.as_raw_fd() == fd
        {
            self.read(ops);
        }
        self.advance(ops);
    }
}

fn as_file(stream: UnixStream) -> File {
    File::from(OwnedFd::from(stream))
}
