//! Sequence-numbered Ethernet frames, sent through a guest that echoes them, and counted.
//!
//! ```text
//! 0   destination MAC   the guest swaps these two,
//! 6   source MAC        so nothing below depends on them
//! 12  ethertype         0x88b5, IEEE 802 local experimental
//! 14  magic             "GWIT"
//! 18  sequence          u64, big endian
//! 26  length            u32, big endian: of the whole frame
//! 30  checksum          u32, big endian: of bytes 12 to 30 and of the filling
//! 34  filling           derived from the sequence number
//! ```

mod bridge;
mod paced;
mod port;

pub use bridge::{Bridge, PORT};
pub use paced::{Flight, Pace, Record, Span, paced};
pub use port::Port;

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Shortest frame, without the frame check sequence: what Ethernet pads to.
pub const SHORTEST: usize = 60;

/// Longest frame at an MTU of 1500 bytes, without the frame check sequence.
pub const LONGEST: usize = 1514;

const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const MAGIC: &[u8; 4] = b"GWIT";
const FILLING: usize = 34;

/// A mix of frame lengths: small, large and in between, none a multiple of the next.
pub const MIXED: [usize; 8] = [60, 64, 128, 257, 512, 590, 1024, 1514];

/// Writes frame `sequence` of `length` bytes into `frame`; `length` is taken into the range
/// [`SHORTEST`]..=65535.
pub fn fill(frame: &mut Vec<u8>, sequence: u64, length: usize, to: [u8; 6], from: [u8; 6]) {
    let length = length.clamp(SHORTEST, 65_535);
    frame.clear();
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&from);
    frame.extend_from_slice(&ETHERTYPE);
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(&sequence.to_be_bytes());
    let length_field = u32::try_from(length).unwrap_or(u32::MAX);
    frame.extend_from_slice(&length_field.to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    let mut state = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while frame.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let left = length - frame.len();
        let bytes = state.to_le_bytes();
        frame.extend_from_slice(bytes.get(..left.min(8)).unwrap_or(&bytes));
    }
    let sum = checksum(frame);
    if let Some(field) = frame.get_mut(30..34) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// FNV-1a over what the guest must not change, the checksum field left out.
fn checksum(frame: &[u8]) -> u32 {
    let head = frame.get(12..30).unwrap_or_default();
    let filling = frame.get(FILLING..).unwrap_or_default();
    head.iter()
        .chain(filling)
        .fold(0x811c_9dc5, |sum: u32, byte| {
            (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        })
}

/// What a received frame turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// One of ours, whole.
    Whole {
        /// Its sequence number.
        sequence: u64,
    },
    /// One of ours by its magic, with another length or other bytes than it was sent with.
    Damaged,
    /// Not one of ours.
    Foreign,
}

/// Looks at a received frame.
pub fn check(frame: &[u8]) -> Seen {
    if frame.get(12..14) != Some(&ETHERTYPE) || frame.get(14..18) != Some(MAGIC) {
        return Seen::Foreign;
    }
    let sequence = frame
        .get(18..26)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes);
    let word = |at: usize| {
        frame
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes)
    };
    let length = u32::try_from(frame.len()).ok();
    match sequence {
        Some(sequence) if word(26) == length && word(30) == Some(checksum(frame)) => {
            Seen::Whole { sequence }
        }
        _ => Seen::Damaged,
    }
}

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Number of frames.
    pub frames: u64,
    /// Their lengths, taken in turn.
    pub lengths: Vec<usize>,
    /// Time after which a frame counts as lost.
    pub patience: Duration,
    /// Time after which the stream is given up.
    pub limit: Duration,
    /// Pause between frames; none sends the next as soon as one is back.
    pub pause: Duration,
    /// Where the frames go, as the guest's MAC address.
    pub to: [u8; 6],
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            frames: 20_000,
            lengths: MIXED.to_vec(),
            patience: Duration::from_secs(2),
            limit: Duration::from_secs(300),
            pause: Duration::ZERO,
            to: [0x52, 0x54, 0x00, 0x00, 0x00, 0x01],
        }
    }
}

/// What came of a stream with one frame in flight.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Frames sent.
    pub sent: u64,
    /// Frames that came back whole, each counted once.
    pub received: u64,
    /// Frames that came back after the time they were given.
    pub late: u64,
    /// Frames that came back more than once.
    pub duplicates: u64,
    /// Frames that came back changed.
    pub damaged: u64,
    /// Octets of the frames that came back whole.
    pub bytes: u64,
    /// From the first frame sent to the last one back, in seconds.
    pub seconds: f64,
    /// Longest time without a frame coming back, in seconds.
    pub longest_silence: f64,
    /// Round trips by duration: bucket n counts those of 2ⁿ to 2ⁿ⁺¹ µs, the first from 0, the last without end.
    pub round_trips: [u64; 24],
}

impl Tally {
    /// Frames that did not come back whole, not even late.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// Frames that came back, per second.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let received = self.received as f64;
        if self.seconds > 0.0 {
            received / self.seconds
        } else {
            0.0
        }
    }

    fn round_trip(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = micros.max(1).ilog2() as usize;
        let last = self.round_trips.len() - 1;
        if let Some(count) = self.round_trips.get_mut(bucket.min(last)) {
            *count += 1;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent, {} back, {} lost, {} late, {} twice, {} damaged; {:.1} s, {:.0} a second, longest silence {:.0} ms",
            self.sent,
            self.received,
            self.lost(),
            self.late,
            self.duplicates,
            self.damaged,
            self.seconds,
            self.rate(),
            self.longest_silence * 1e3
        )
    }
}

/// Why a stream could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// The interface cannot be used.
    #[error("cannot open a packet socket on {interface}: {attempt}")]
    Open {
        /// The interface.
        interface: String,
        /// What was tried.
        attempt: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// Sending failed.
    #[error("cannot send a frame of {length} bytes on {interface}")]
    Send {
        /// The interface.
        interface: String,
        /// The frame's length.
        length: usize,
        /// The reason.
        source: io::Error,
    },
}

/// Sends `stream` through `port` with one frame in flight, and waits for each to come back.
/// `seen` learns of the tally a few times a second.
///
/// # Errors
/// When a frame cannot be sent. Loss and damage are counted, not errors.
pub fn one_in_flight(
    port: &Port,
    stream: &Stream,
    seen: impl FnMut(&Tally),
) -> Result<Tally, TrafficError> {
    each_in_turn(port, stream, seen, |_| {})
}

/// [`one_in_flight`], with each round trip told to `timed`.
///
/// # Errors
/// When a frame cannot be sent.
pub fn each_in_turn(
    port: &Port,
    stream: &Stream,
    mut seen: impl FnMut(&Tally),
    mut timed: impl FnMut(Duration),
) -> Result<Tally, TrafficError> {
    let mut tally = Tally::default();
    let mut back = vec![false; usize::try_from(stream.frames).unwrap_or(usize::MAX)];
    let mut frame = Vec::with_capacity(LONGEST);
    let mut buffer = vec![0; 65_536];
    let started = Instant::now();
    let mut last_back = started;
    let mut last_told = started;
    let from = [0x02, 0x67, 0x77, 0, 0, 1];
    for sequence in 0..stream.frames {
        if started.elapsed() > stream.limit {
            break;
        }
        let turn = usize::try_from(sequence).unwrap_or_default() % stream.lengths.len().max(1);
        let length = stream.lengths.get(turn).copied().unwrap_or(SHORTEST);
        fill(&mut frame, sequence, length, stream.to, from);
        let sent = Instant::now();
        port.send(&frame)?;
        tally.sent += 1;
        loop {
            let left = stream.patience.saturating_sub(sent.elapsed());
            let Some(bytes) = port.receive(&mut buffer, left) else {
                if left.is_zero() { break } else { continue }
            };
            match check(bytes) {
                Seen::Whole { sequence: got } => {
                    let known = usize::try_from(got).ok().and_then(|got| back.get_mut(got));
                    match known {
                        Some(known) if !*known => *known = true,
                        _ => {
                            tally.duplicates += 1;
                            continue;
                        }
                    }
                    tally.received += 1;
                    tally.bytes += bytes.len() as u64;
                    let now = Instant::now();
                    tally.longest_silence =
                        tally.longest_silence.max((now - last_back).as_secs_f64());
                    last_back = now;
                    if got == sequence {
                        tally.round_trip(now - sent);
                        timed(now - sent);
                        break;
                    }
                    tally.late += 1;
                }
                Seen::Damaged => tally.damaged += 1,
                Seen::Foreign => {}
            }
        }
        if last_told.elapsed() > Duration::from_millis(250) {
            tally.seconds = started.elapsed().as_secs_f64();
            seen(&tally);
            last_told = Instant::now();
        }
        if !stream.pause.is_zero() {
            std::thread::sleep(stream.pause.saturating_sub(sent.elapsed()));
        }
    }
    tally.seconds = started.elapsed().as_secs_f64();
    tally.longest_silence = tally.longest_silence.max(last_back.elapsed().as_secs_f64());
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
    const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];

    proptest! {
        #[test]
        fn swapped_addresses_are_no_damage(sequence: u64, length in SHORTEST..=LONGEST) {
            let mut frame = Vec::new();
            fill(&mut frame, sequence, length, GUEST, HOST);
            prop_assert_eq!(frame.len(), length);
            let (to, rest) = frame.split_at_mut(6);
            to.swap_with_slice(&mut rest[..6]);
            prop_assert_eq!(check(&frame), Seen::Whole { sequence });
        }

        #[test]
        fn a_changed_byte_is_damage(sequence: u64, length in SHORTEST..=LONGEST, place: prop::sample::Index, change in 1..=255u8) {
            let mut frame = Vec::new();
            fill(&mut frame, sequence, length, GUEST, HOST);
            let place = 18 + place.index(length - 18);
            frame[place] ^= change;
            prop_assert_eq!(check(&frame), Seen::Damaged);
        }

        #[test]
        fn a_truncated_frame_is_never_whole(length in SHORTEST..=LONGEST, cut: prop::sample::Index) {
            let mut frame = Vec::new();
            fill(&mut frame, 1, length, GUEST, HOST);
            let cut = cut.index(length);
            let whole = matches!(check(&frame[..cut]), Seen::Whole { .. });
            prop_assert!(!whole);
        }

        #[test]
        fn other_bytes_are_foreign_or_damaged(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let whole = matches!(check(&bytes), Seen::Whole { .. });
            prop_assert!(!whole);
        }
    }

    #[test]
    fn the_tally_counts_what_is_missing() {
        let tally = Tally {
            sent: 10,
            received: 8,
            seconds: 4.0,
            ..Tally::default()
        };
        assert_eq!(tally.lost(), 2);
        assert!((tally.rate() - 2.0).abs() < f64::EPSILON);
    }
}
