//! The messages: every frame but PAGES, as values.

use super::codec::{BadBody, Reader, Writer};
use super::{Header, Kind};

/// The most regions a guest may have: bounds what a peer makes us allocate.
pub const REGIONS: usize = 256;
/// The most data connections.
pub const STREAMS: u16 = 128;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that everything but page content travels on.
    Control {
        /// How many data connections follow.
        streams: u16,
    },
    /// Page content.
    Data {
        /// Which one, from 0.
        index: u16,
    },
}

/// The first message of every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The oldest version that the source speaks.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// A number that ties the connections of one migration together.
    pub session: u128,
    /// What this connection is for.
    pub role: Role,
}

/// A region as the source has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionFact {
    /// Its guest physical address.
    pub guest_address: u64,
    /// Its size.
    pub size_bytes: u64,
    /// The host's page size behind it.
    pub page_bytes: u64,
}

/// What the guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Memory comes as files with this frame.
    pub local: bool,
    /// The regions, in the order that extents number them.
    pub regions: Vec<RegionFact>,
    /// What the VMM says of the guest: opaque here.
    pub guest: Vec<u8>,
}

/// Whether the destination can have the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is built.
    Accept {
        /// How long setting the state will take, in microseconds.
        restore_us: u64,
    },
    /// It cannot be, for these reasons.
    Refuse(Vec<String>),
}

/// How long the guest has stood still, by the source's clock: what the destination
/// adds its own time to. Durations, since the two clocks are not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standstill {
    /// From the first vCPU's stop to the sending of HANDOVER, in ns.
    pub so_far: u64,
    /// The shortest round trip that the source saw, in ns.
    pub round_trip: u64,
}

/// A run of pages of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The number of the region.
    pub region: u16,
    /// The first page.
    pub first: u64,
    /// How many pages.
    pub count: u64,
}

/// A message: the body of any frame but PAGES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// The version that both will speak.
    Welcome(u16),
    /// See [`Description`].
    Description(Description),
    /// See [`Verdict`].
    Verdict(Verdict),
    /// What is present and will come.
    Extents(Vec<Extent>),
    /// The end of a round on this connection, or its acknowledgement.
    Round(u32),
    /// The end of memory on this connection.
    Last,
    /// The state of vCPUs and devices: opaque here.
    State(Vec<u8>),
    /// The destination could run the guest.
    Ready,
    /// The guest is the destination's. A source of version 1 says no more.
    Handover(Option<Standstill>),
    /// The guest runs since this moment of the destination's clock, in ns.
    Running(u64),
    /// It ends here, and why.
    Abort(String),
    /// What time it was at the asking and at the answering side, in ns.
    Clock {
        /// The asking side's clock.
        asked: u64,
        /// The answering side's clock; `None` in the question.
        answered: Option<u64>,
        /// Which boot of which kernel the clock belongs to.
        boot: u128,
    },
}

impl Message {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Welcome(_) => Kind::Welcome,
            Self::Description(_) => Kind::Description,
            Self::Verdict(_) => Kind::Verdict,
            Self::Extents(_) => Kind::Extents,
            Self::Round(_) => Kind::Round,
            Self::Last => Kind::Last,
            Self::State(_) => Kind::State,
            Self::Ready => Kind::Ready,
            Self::Handover(_) => Kind::Handover,
            Self::Running(_) => Kind::Running,
            Self::Abort(_) => Kind::Abort,
            Self::Clock { .. } => Kind::Clock,
        }
    }

    /// The frame of this message.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = self.body();
        let mut bytes = Header::of(self.kind(), &body).to_bytes().to_vec();
        bytes.extend_from_slice(&body);
        bytes
    }

    fn body(&self) -> Vec<u8> {
        let body = Writer::default();
        match self {
            Self::Hello(hello) => {
                let (control, number) = match hello.role {
                    Role::Control { streams } => (true, streams),
                    Role::Data { index } => (false, index),
                };
                body.u16(hello.oldest)
                    .u16(hello.newest)
                    .u128(hello.session)
                    .flag(control)
                    .u16(number)
            }
            Self::Welcome(version) => body.u16(*version),
            Self::Description(description) => {
                let count = u16::try_from(description.regions.len()).unwrap_or(u16::MAX);
                let body = body.flag(description.local).u16(count);
                description
                    .regions
                    .iter()
                    .fold(body, |body, region| {
                        body.u64(region.guest_address)
                            .u64(region.size_bytes)
                            .u64(region.page_bytes)
                    })
                    .bytes(&description.guest)
            }
            Self::Verdict(Verdict::Accept { restore_us }) => body.flag(true).u64(*restore_us),
            Self::Verdict(Verdict::Refuse(reasons)) => {
                reasons.iter().fold(body.flag(false), |body, reason| {
                    body.string(reason.as_bytes())
                })
            }
            Self::Extents(extents) => extents.iter().fold(body, |body, extent| {
                body.u16(extent.region).u64(extent.first).u64(extent.count)
            }),
            Self::Round(number) => body.u32(*number),
            Self::Last | Self::Ready | Self::Handover(None) => body,
            Self::Handover(Some(stood)) => body.u64(stood.so_far).u64(stood.round_trip),
            Self::State(state) => body.bytes(state),
            Self::Running(since) => body.u64(*since),
            Self::Abort(reason) => body.bytes(reason.as_bytes()),
            Self::Clock {
                asked,
                answered,
                boot,
            } => body
                .u64(*asked)
                .flag(answered.is_some())
                .u64(answered.unwrap_or(0))
                .u128(*boot),
        }
        .0
    }

    /// Reads the body of a frame of `kind`.
    ///
    /// # Errors
    /// The body does not say what the kind wants said.
    pub fn parse(kind: Kind, body: &[u8]) -> Result<Self, BadBody> {
        let mut r = Reader::new(body);
        let message = match kind {
            Kind::Hello => Self::Hello(hello(&mut r)?),
            Kind::Welcome => Self::Welcome(r.u16()?),
            Kind::Description => Self::Description(description(&mut r)?),
            Kind::Verdict => Self::Verdict(verdict(&mut r)?),
            Kind::Extents => Self::Extents(extents(&mut r)?),
            Kind::Round => Self::Round(r.u32()?),
            Kind::Last => Self::Last,
            Kind::State => Self::State(r.rest().to_vec()),
            Kind::Ready => Self::Ready,
            Kind::Handover if body.is_empty() => Self::Handover(None),
            Kind::Handover => Self::Handover(Some(Standstill {
                so_far: r.u64()?,
                round_trip: r.u64()?,
            })),
            Kind::Running => Self::Running(r.u64()?),
            Kind::Abort => Self::Abort(String::from_utf8_lossy(r.rest()).into_owned()),
            Kind::Clock => {
                let asked = r.u64()?;
                let known = r.flag()?;
                let answered = r.u64()?;
                Self::Clock {
                    asked,
                    answered: known.then_some(answered),
                    boot: r.u128()?,
                }
            }
            Kind::Pages => return Err(BadBody("page content is no message")),
        };
        r.end()?;
        Ok(message)
    }
}

fn hello(r: &mut Reader<'_>) -> Result<Hello, BadBody> {
    let (oldest, newest, session) = (r.u16()?, r.u16()?, r.u128()?);
    let (control, number) = (r.flag()?, r.u16()?);
    if number > STREAMS {
        return Err(BadBody("more than 128 data connections"));
    }
    let role = if control {
        Role::Control { streams: number }
    } else {
        Role::Data { index: number }
    };
    Ok(Hello {
        oldest,
        newest,
        session,
        role,
    })
}

fn description(r: &mut Reader<'_>) -> Result<Description, BadBody> {
    let local = r.flag()?;
    let count = usize::from(r.u16()?);
    if count > REGIONS {
        return Err(BadBody("more than 256 regions"));
    }
    let regions = (0..count)
        .map(|_| {
            Ok(RegionFact {
                guest_address: r.u64()?,
                size_bytes: r.u64()?,
                page_bytes: r.u64()?,
            })
        })
        .collect::<Result<_, BadBody>>()?;
    Ok(Description {
        local,
        regions,
        guest: r.rest().to_vec(),
    })
}

fn verdict(r: &mut Reader<'_>) -> Result<Verdict, BadBody> {
    if r.flag()? {
        return Ok(Verdict::Accept {
            restore_us: r.u64()?,
        });
    }
    let mut reasons = Vec::new();
    let mut rest = Reader::new(r.rest());
    while let Ok(reason) = rest.text() {
        reasons.push(reason);
    }
    rest.end()?;
    Ok(Verdict::Refuse(reasons))
}

/// An extent in the body of EXTENTS.
const EXTENT_BYTES: usize = 18;

fn extents(r: &mut Reader<'_>) -> Result<Vec<Extent>, BadBody> {
    let rest = r.rest();
    if !rest.len().is_multiple_of(EXTENT_BYTES) {
        return Err(BadBody("it is not made of whole extents"));
    }
    let mut r = Reader::new(rest);
    (0..rest.len() / EXTENT_BYTES)
        .map(|_| {
            Ok(Extent {
                region: r.u16()?,
                first: r.u64()?,
                count: r.u64()?,
            })
        })
        .collect()
}

/// How many extents fit into one EXTENTS frame.
pub const EXTENTS_PER_FRAME: usize = Kind::Extents.body_limit() / EXTENT_BYTES;
