//! What travels: frames, and what their bodies say.
//!
//! ```text
//!  source                                              destination
//!    |-- HELLO (versions, session, streams) -----------> |  control connection
//!    | <------------------------- WELCOME (version) -----|
//!    |== HELLO on each data connection ================> |
//!    |-- CLOCK --> / <-- CLOCK  (a few times) ---------- |
//!    |-- DESCRIPTION (regions, config) ----------------> |  builds everything
//!    | <------------- VERDICT (cost, or refusals) -------|
//!    |-- EXTENTS (what is present) --------------------> |  populates
//!    |== PAGES ... ROUND n ============================> |  data connections
//!    | <=========================== ROUND n =============|  one each, per round
//!    |          ... the guest stops at the source ...    |
//!    |== PAGES ... LAST ===============================> |
//!    |-- STATE ----------------------------------------> |
//!    | <------------- CLOCK, while pages still come -----|  restores
//!    | <-------------------------------------- READY ----|
//!    |-- HANDOVER (standstill) ------------------------> |  runs, exactly once
//!    | <---------------------- RUNNING (when) -----------|
//! ```
//!
//! Until the last byte of HANDOVER is accepted by the source's kernel, the guest
//! is the source's; from then on it is never again. ABORT, from either side and
//! at any time before, names the reason and ends it. With local handover the
//! files of memory come with DESCRIPTION, and no data connection is made.
//!
//! A frame is a header of 28 bytes, a body and a payload, each with its CRC32C:
//!
//! ```text
//!  0      4     5      6         8       12         16        20           24          28
//!  | magic | kind | flags | reserved | body len | payload len | body crc | payload crc | header crc |
//! ```
//!
//! The header's checksum is verified before its lengths are believed, lengths
//! are bounded by kind before anything is allocated, and the body's checksum is
//! verified before it is read. Only PAGES has a payload: page content, which
//! goes straight to guest memory and is verified after.

pub(crate) mod codec;
pub mod message;
pub mod pages;

pub use codec::BadBody;

/// The versions of the protocol that this build speaks: the current one last.
///
/// Version 2 says in HANDOVER for how long the guest has stood still.
pub const VERSIONS: std::ops::RangeInclusive<u16> = 1..=2;

/// The first version whose HANDOVER has a [`Standstill`](message::Standstill).
pub const WITH_STANDSTILL: u16 = 2;

/// The first bytes of every frame.
pub const MAGIC: u32 = u32::from_le_bytes(*b"gdwt");
/// The size of a header.
pub const HEADER_BYTES: usize = 28;
/// Pages in one frame, at most.
pub const FRAME_PAGES: usize = 512;
/// Zero pages in one frame, at most: they cost the destination work and us none.
pub const FRAME_ZEROS: usize = 64 << 10;
/// Extents in the body of one PAGES frame, at most.
pub const FRAME_EXTENTS: usize = 1024;
/// The longest description.
pub const DESCRIPTION_BYTES: usize = 4 << 20;
/// The longest state.
pub const STATE_BYTES: usize = 64 << 20;

const PAYLOAD_COVERED: u8 = 1;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first frame of every connection.
    Hello = 1,
    /// The answer to a control connection's HELLO.
    Welcome = 2,
    /// What the guest is.
    Description = 3,
    /// Whether the destination can have it.
    Verdict = 4,
    /// What is present and will come.
    Extents = 5,
    /// Content of memory.
    Pages = 6,
    /// The end of a round on this connection, and its acknowledgement.
    Round = 7,
    /// The end of memory on this connection.
    Last = 8,
    /// The state of vCPUs and devices.
    State = 9,
    /// The destination could run the guest.
    Ready = 10,
    /// The guest is the destination's.
    Handover = 11,
    /// The guest runs, since when.
    Running = 12,
    /// It ends here, and why.
    Abort = 13,
    /// What time it is; also a sign of life.
    Clock = 14,
}

impl Kind {
    const ALL: [Self; 14] = [
        Self::Hello,
        Self::Welcome,
        Self::Description,
        Self::Verdict,
        Self::Extents,
        Self::Pages,
        Self::Round,
        Self::Last,
        Self::State,
        Self::Ready,
        Self::Handover,
        Self::Running,
        Self::Abort,
        Self::Clock,
    ];

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The longest body of this kind, in bytes.
    #[must_use]
    pub const fn body_limit(self) -> usize {
        match self {
            Self::Hello | Self::Welcome | Self::Clock => 64,
            Self::Round | Self::Last | Self::Ready | Self::Handover => 16,
            Self::Running => 64,
            Self::Description => DESCRIPTION_BYTES,
            Self::Verdict | Self::Abort => 64 << 10,
            Self::Extents => 1 << 20,
            Self::Pages => FRAME_EXTENTS * pages::EXTENT_BYTES + FRAME_PAGES * 8 + 16,
            Self::State => STATE_BYTES,
        }
    }

    /// The longest payload of this kind, in bytes.
    #[must_use]
    pub const fn payload_limit(self) -> usize {
        match self {
            Self::Pages => FRAME_PAGES * crate::memory::PAGE_BYTES,
            _ => 0,
        }
    }
}

/// The bytes are no frame of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another protocol, or bytes that went astray.
    #[error("The frame begins with {0:#010x}: the peer does not speak this protocol")]
    Magic(u32),
    /// The header does not match its checksum.
    #[error(
        "The frame's header has checksum {actual:#010x}, not {stated:#010x}: it was damaged on the way"
    )]
    HeaderChecksum {
        /// What the header says.
        stated: u32,
        /// What it is.
        actual: u32,
    },
    /// A kind that this version does not know.
    #[error("The frame is of unknown kind {0}")]
    Kind(u8),
    /// Flags or reserved bits that this version does not know.
    #[error("The frame has unknown flags {0:#x}")]
    Flags(u32),
    /// A length beyond what the kind may have.
    #[error("A {kind:?} frame of {body} + {payload} bytes is longer than the kind may be")]
    TooLong {
        /// The kind.
        kind: Kind,
        /// The body's length.
        body: u32,
        /// The payload's length.
        payload: u32,
    },
    /// The body or payload does not match its checksum.
    #[error(
        "The {kind:?} frame's {part} has checksum {actual:#010x}, not {stated:#010x}: it was damaged on the way"
    )]
    Checksum {
        /// The kind.
        kind: Kind,
        /// Body or payload.
        part: &'static str,
        /// What the header says.
        stated: u32,
        /// What it is.
        actual: u32,
    },
}

/// A frame's first 28 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// The length of the body.
    pub body: u32,
    /// The length of the payload.
    pub payload: u32,
    /// The body's checksum.
    pub body_crc: u32,
    /// The payload's checksum, unless it was sent straight from memory that the
    /// guest writes, where no checksum holds.
    pub payload_crc: Option<u32>,
}

impl Header {
    /// The header of a frame without payload.
    #[must_use]
    pub fn of(kind: Kind, body: &[u8]) -> Self {
        Self {
            kind,
            body: u32::try_from(body.len()).unwrap_or(u32::MAX),
            payload: 0,
            body_crc: crc32c::crc32c(body),
            payload_crc: Some(0),
        }
    }

    /// The header as it travels.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let flags = if self.payload_crc.is_some() {
            PAYLOAD_COVERED
        } else {
            0
        };
        let mut bytes = [0; HEADER_BYTES];
        let words = [
            MAGIC,
            u32::from_le_bytes([self.kind as u8, flags, 0, 0]),
            self.body,
            self.payload,
            self.body_crc,
            self.payload_crc.unwrap_or(0),
        ];
        let (places, _) = bytes.as_chunks_mut::<4>();
        for (place, word) in places.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        let crc = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header that came in.
    ///
    /// # Errors
    /// See [`FrameError`]: nothing of it may be used then.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let (words, _) = bytes.as_chunks::<4>();
        let word = |at: usize| words.get(at).map_or(0, |w| u32::from_le_bytes(*w));
        if word(0) != MAGIC {
            return Err(FrameError::Magic(word(0)));
        }
        let actual = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        if word(6) != actual {
            return Err(FrameError::HeaderChecksum {
                stated: word(6),
                actual,
            });
        }
        let [kind, flags, ..] = word(1).to_le_bytes();
        let kind = Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
        if flags & !PAYLOAD_COVERED != 0 || word(1) >> 16 != 0 {
            return Err(FrameError::Flags(word(1) >> 8));
        }
        let (body, payload) = (word(2), word(3));
        if body as usize > kind.body_limit() || payload as usize > kind.payload_limit() {
            return Err(FrameError::TooLong {
                kind,
                body,
                payload,
            });
        }
        Ok(Self {
            kind,
            body,
            payload,
            body_crc: word(4),
            payload_crc: (flags & PAYLOAD_COVERED != 0).then_some(word(5)),
        })
    }

    /// Compares the body that came in with its checksum.
    ///
    /// # Errors
    /// It was damaged.
    pub fn check_body(&self, body: &[u8]) -> Result<(), FrameError> {
        self.check("body", self.body_crc, crc32c::crc32c(body))
    }

    /// Compares the payload's checksum with the one stated, if one was.
    ///
    /// # Errors
    /// It was damaged.
    pub fn check_payload(&self, actual: u32) -> Result<(), FrameError> {
        match self.payload_crc {
            Some(stated) => self.check("payload", stated, actual),
            None => Ok(()),
        }
    }

    fn check(&self, part: &'static str, stated: u32, actual: u32) -> Result<(), FrameError> {
        if stated == actual {
            return Ok(());
        }
        Err(FrameError::Checksum {
            kind: self.kind,
            part,
            stated,
            actual,
        })
    }
}

/// The newest version that both sides speak.
#[must_use]
pub fn choose_version(
    ours: std::ops::RangeInclusive<u16>,
    theirs: std::ops::RangeInclusive<u16>,
) -> Option<u16> {
    let version = *ours.end().min(theirs.end());
    (ours.contains(&version) && theirs.contains(&version)).then_some(version)
}

#[cfg(test)]
mod tests;
