//! What a source may send to a destination of a migration: frames whose
//! checksums hold and that say anything, in any order, on several connections;
//! and bytes that are no frames.

#![no_main]

use arbitrary::Arbitrary;
use godwit_migration::testing::{FakeDestination, Step, frame, play};
use godwit_migration::wire::message::{
    Description, Extent, Hello, Message, RegionFact, Role, Standstill, Verdict,
};
use godwit_migration::wire::pages::{Content, Index, Piece};
use libfuzzer_sys::fuzz_target;

/// The guest that is described unless something else is: 64 pages.
const SIZE: u64 = 64 * 4096;

#[derive(Arbitrary, Debug)]
enum Act {
    Describe {
        local: bool,
        other: Option<(u64, u64)>,
    },
    Extent {
        region: u16,
        first: u64,
        count: u64,
    },
    Pages {
        pieces: Vec<(u8, u8, u16, u16)>,
        maps: Vec<u64>,
        short: u8,
    },
    Wild {
        kind: u8,
        body: Vec<u8>,
        payload: Vec<u8>,
    },
    Round(u32),
    Last,
    State(Vec<u8>),
    Handover(Option<(u64, u64)>),
    Clock {
        asked: u64,
        answered: Option<u64>,
    },
    Abort(String),
    Verdict(Vec<String>),
    Bytes(Vec<u8>),
}

fn bytes(act: Act) -> Vec<u8> {
    match act {
        Act::Describe { local, other } => {
            let (guest_address, size_bytes) = other.unwrap_or((0, SIZE));
            Message::Description(Description {
                local,
                regions: vec![RegionFact {
                    guest_address,
                    size_bytes,
                    page_bytes: 4096,
                }],
                guest: size_bytes.to_le_bytes().to_vec(),
            })
            .to_bytes()
        }
        Act::Extent {
            region,
            first,
            count,
        } => Message::Extents(vec![Extent {
            region: region % 2,
            first,
            count,
        }])
        .to_bytes(),
        Act::Pages {
            pieces,
            maps,
            short,
        } => {
            let pieces = pieces
                .into_iter()
                .map(|(content, region, first, count)| Piece {
                    content: match content % 3 {
                        0 => Content::Raw,
                        1 => Content::Zero,
                        _ => Content::Lines,
                    },
                    region: u16::from(region % 2),
                    first: first.into(),
                    count: u32::from(count % 80),
                });
            let index = Index {
                pieces: pieces.collect(),
                maps,
            };
            let payload = vec![short; index.payload_bytes().min(1 << 20) + usize::from(short == 1)];
            frame(6, &index.to_body(), &payload).unwrap_or_default()
        }
        Act::Wild {
            kind,
            body,
            payload,
        } => frame(kind % 16, &body, &payload).unwrap_or_default(),
        Act::Round(number) => Message::Round(number).to_bytes(),
        Act::Last => Message::Last.to_bytes(),
        Act::State(state) => Message::State(state).to_bytes(),
        Act::Handover(stood) => Message::Handover(stood.map(|(so_far, round_trip)| Standstill {
            so_far,
            round_trip,
        }))
        .to_bytes(),
        Act::Clock { asked, answered } => Message::Clock {
            asked,
            answered,
            boot: 1,
        }
        .to_bytes(),
        Act::Abort(reason) => Message::Abort(reason).to_bytes(),
        Act::Verdict(reasons) => Message::Verdict(Verdict::Refuse(reasons)).to_bytes(),
        Act::Bytes(bytes) => bytes,
    }
}

#[derive(Arbitrary, Debug)]
struct Source {
    oldest: bool,
    streams: u8,
    described: bool,
    control: Vec<Act>,
    data: Vec<Vec<Act>>,
}

fuzz_target!(|source: Source| {
    let streams = u16::from(source.streams % 4);
    let hello = |role| {
        Message::Hello(Hello {
            oldest: u16::from(!source.oldest),
            newest: 1,
            session: 7,
            role,
        })
        .to_bytes()
    };
    let mut control = hello(Role::Control { streams });
    if source.described {
        control.extend(bytes(Act::Describe {
            local: false,
            other: None,
        }));
    }
    control.extend(source.control.into_iter().flat_map(bytes));
    let mut all = vec![control];
    let mut data = source.data.into_iter();
    for index in 0..streams {
        let mut connection = hello(Role::Data { index });
        connection.extend(data.next().unwrap_or_default().into_iter().flat_map(bytes));
        all.push(connection);
    }
    // Little memory: what is announced is allocated.
    let place = FakeDestination::new().with_most_bytes(1 << 20);
    let (place, played) = play(&all, place);
    let count = |step| place.steps.iter().filter(|s| **s == step).count();
    let (prepared, runs, abandoned) =
        (count(Step::Prepare), count(Step::Run), count(Step::Abandon));
    assert!(prepared <= 1 && runs + abandoned <= prepared);
    assert_eq!(runs == 1, played.is_ok());
    assert!(runs <= count(Step::Restore));
    assert!(runs == 1 || place.memory().is_empty());
});
