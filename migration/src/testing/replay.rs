//! A destination that hears what was recorded, or made up.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::FakeDestination;
use crate::cancel::Cancel;
use crate::channel::{ChannelError, Link, Patience, Stop};
use crate::destination::{ReceiveError, serve};
use crate::options::Options;
use crate::wire::message::Message;
use crate::wire::{HEADER_BYTES, Header, Kind};

/// Plays `bytes`, one string a connection and control first, to a destination;
/// what it answers is not looked at. The connections end where the bytes do.
///
/// # Errors
/// The destination refused what it heard.
///
/// # Panics
/// The system has no descriptors or threads left.
pub fn play(
    bytes: &[Vec<u8>],
    mut place: FakeDestination,
) -> (FakeDestination, Result<(), ReceiveError>) {
    let cancel = Cancel::new().expect("an eventfd");
    let stop = Stop::new(&cancel).expect("an eventfd");
    let options = Options::default();
    let stall = options.stall;
    let mut ends = Vec::new();
    let mut sockets = Vec::new();
    for _ in bytes {
        let (far, near) = UnixStream::pair().expect("a pair of sockets");
        ends.push(far);
        sockets.push(OwnedFd::from(near));
    }
    let mut near = sockets.into_iter();
    let played = thread::scope(|scope| {
        for (far, bytes) in ends.iter().zip(bytes) {
            scope.spawn(move || {
                let mut far = far;
                // It ends early where the destination has heard enough.
                let _ = far.write_all(bytes);
                let _ = far.shutdown(std::net::Shutdown::Write);
            });
        }
        let Some(control) = near.next() else {
            return Err(ChannelError::Stopped.into());
        };
        let control = Link::new(control, stop, stall)?;
        let patience = Patience::For(Duration::from_secs(10));
        let heard = control.receive(patience, "waiting for a greeting");
        // The rest are closed when this is over, so that no writer waits.
        let next = || {
            near.next().ok_or(ChannelError::Closed {
                doing: "waiting for a connection",
            })
        };
        let played = match heard {
            Ok(Message::Hello(hello)) => {
                serve(control, hello, next, &mut place, &options, &Arc::default()).map(|_| ())
            }
            Ok(_) => Err(ChannelError::Stopped.into()),
            Err(error) => Err(error.into()),
        };
        drop(near);
        played
    });
    (place, played)
}

/// A frame with checksums that hold, whatever it says; `None` for a kind that
/// does not exist.
#[must_use]
pub fn frame(kind: u8, body: &[u8], payload: &[u8]) -> Option<Vec<u8>> {
    let mut header = Header::of(Kind::from_byte(kind)?, body);
    header.payload = u32::try_from(payload.len()).ok()?;
    header.payload_crc = Some(crc32c::crc32c(payload));
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len() + payload.len());
    bytes.extend_from_slice(&header.to_bytes());
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(payload);
    Some(bytes)
}
