use proptest::prelude::*;

use super::message::{Description, Extent, Hello, Message, RegionFact, Role, Standstill, Verdict};
use super::pages::{Content, Index};
use super::*;

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..20).prop_map(String::from_iter)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..200)
}

fn message() -> impl Strategy<Value = Message> {
    let role = prop_oneof![
        (0_u16..=128).prop_map(|streams| Role::Control { streams }),
        (0_u16..=128).prop_map(|index| Role::Data { index }),
    ];
    let hello = (any::<u16>(), any::<u16>(), any::<u128>(), role).prop_map(
        |(oldest, newest, session, role)| {
            Message::Hello(Hello {
                oldest,
                newest,
                session,
                role,
            })
        },
    );
    let region =
        any::<(u64, u64, u64)>().prop_map(|(guest_address, size_bytes, page_bytes)| RegionFact {
            guest_address,
            size_bytes,
            page_bytes,
        });
    let description = (
        any::<bool>(),
        proptest::collection::vec(region, 0..5),
        bytes(),
    )
        .prop_map(|(local, regions, guest)| {
            Message::Description(Description {
                local,
                regions,
                guest,
            })
        });
    let extent = any::<(u16, u64, u64)>().prop_map(|(region, first, count)| Extent {
        region,
        first,
        count,
    });
    let clock =
        any::<(u64, Option<u64>, u128)>().prop_map(|(asked, answered, boot)| Message::Clock {
            asked,
            answered,
            boot,
        });
    let stood =
        any::<(u64, u64)>().prop_map(|(so_far, round_trip)| Standstill { so_far, round_trip });
    let handover = proptest::option::of(stood).prop_map(Message::Handover);
    prop_oneof![
        hello,
        any::<u16>().prop_map(Message::Welcome),
        description,
        any::<u64>().prop_map(|restore_us| Message::Verdict(Verdict::Accept { restore_us })),
        proptest::collection::vec(text(), 0..4).prop_map(|r| Message::Verdict(Verdict::Refuse(r))),
        proptest::collection::vec(extent, 0..9).prop_map(Message::Extents),
        any::<u32>().prop_map(Message::Round),
        bytes().prop_map(Message::State),
        any::<u64>().prop_map(Message::Running),
        text().prop_map(Message::Abort),
        clock,
        Just(Message::Last),
        Just(Message::Ready),
        handover,
    ]
}

/// Takes a frame apart as a peer would.
fn read(frame: &[u8]) -> Result<Message, String> {
    let (header, body) = frame
        .split_first_chunk()
        .ok_or_else(|| "too short".to_owned())?;
    let header = Header::parse(header).map_err(|e| e.to_string())?;
    if header.body as usize != body.len() {
        return Err("another length".to_owned());
    }
    header.check_body(body).map_err(|e| e.to_string())?;
    Message::parse(header.kind, body).map_err(|e| e.to_string())
}

proptest! {
    #[test]
    fn what_is_written_is_read(message in message()) {
        let frame = message.to_bytes();
        prop_assert_eq!(read(&frame), Ok(message));
    }

    #[test]
    fn a_changed_bit_is_seen(message in message(), at: prop::sample::Index, bit in 0_u8..8) {
        let mut frame = message.to_bytes();
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        prop_assert!(read(&frame).is_err());
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(kind in 0_usize..14, body in bytes()) {
        let _ = Message::parse(Kind::ALL[kind], &body);
        let _ = Index::parse(&body, 4096);
    }

    #[test]
    fn an_index_is_read_as_written(
        pages in proptest::collection::vec((0_u8..3, 0_u16..3, 0_u64..40, any::<u64>()), 0..100),
    ) {
        let mut index = Index::default();
        for (content, region, page, map) in pages {
            let content = match content {
                0 => Content::Raw,
                1 => Content::Zero,
                _ => Content::Lines,
            };
            index.push(content, region, page);
            if content == Content::Lines {
                index.maps.push(map);
            }
        }
        let payload = u32::try_from(index.payload_bytes()).unwrap();
        let body = index.to_body();
        prop_assert!(body.len() <= Kind::Pages.body_limit());
        prop_assert_eq!(Index::parse(&body, payload), Ok(index.clone()));
        prop_assert!(Index::parse(&body, payload + 1).is_err());
        prop_assert!(Index::parse(&body[..body.len() - 1], payload).is_err());
    }
}

#[test]
fn lengths_are_bounded_by_kind_before_anything_is_believed() {
    for kind in Kind::ALL {
        let mut header = Header::of(kind, &[]);
        header.body = u32::try_from(kind.body_limit()).unwrap();
        header.payload = u32::try_from(kind.payload_limit()).unwrap();
        assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        let mut long = header;
        long.body += 1;
        assert!(matches!(
            Header::parse(&long.to_bytes()),
            Err(FrameError::TooLong { .. })
        ));
        let mut heavy = header;
        heavy.payload += 1;
        assert!(matches!(
            Header::parse(&heavy.to_bytes()),
            Err(FrameError::TooLong { .. })
        ));
    }
}

#[test]
fn other_protocols_and_later_versions_are_told_apart() {
    let good = Header::of(Kind::Ready, &[]).to_bytes();
    let with = |at: usize, value: u8| {
        let mut bytes = good;
        bytes[at] = value;
        let crc = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        Header::parse(&bytes)
    };
    assert!(matches!(with(0, b'H'), Err(FrameError::Magic(_))));
    assert!(matches!(with(4, 99), Err(FrameError::Kind(99))));
    assert!(matches!(with(5, 0x80), Err(FrameError::Flags(_))));
    assert!(matches!(with(6, 1), Err(FrameError::Flags(_))));
    assert!(with(4, Kind::Last as u8).is_ok());
}

#[test]
fn an_index_asks_for_no_more_than_a_frame_holds() {
    let of = |content, count: u32| Index {
        pieces: vec![pages::Piece {
            content,
            region: 0,
            first: 0,
            count,
        }],
        maps: Vec::new(),
    };
    let bound = u32::try_from(FRAME_PAGES).unwrap();
    let parse = |index: &Index| Index::parse(&index.to_body(), u32::MAX);
    assert!(parse(&of(Content::Raw, bound + 1)).is_err());
    assert!(parse(&of(Content::Lines, u32::MAX)).is_err());
    let zeros = u32::try_from(FRAME_ZEROS).unwrap();
    assert!(Index::parse(&of(Content::Zero, zeros).to_body(), 0).is_ok());
    assert!(Index::parse(&of(Content::Zero, zeros + 1).to_body(), 0).is_err());
    assert!(Index::parse(&of(Content::Zero, u32::MAX).to_body(), 0).is_err());
    assert!(Index::parse(&of(Content::Zero, 0).to_body(), 0).is_err());
    let mut many = Index::default();
    for page in 0..=FRAME_EXTENTS as u64 {
        many.push(Content::Zero, 0, page * 2);
    }
    assert!(Index::parse(&many.to_body(), 0).is_err());
}

#[test]
fn the_newest_common_version_is_chosen() {
    for (ours, theirs, chosen) in [
        (1..=1, 1..=1, Some(1)),
        (1..=2, 2..=3, Some(2)),
        (2..=3, 1..=2, Some(2)),
        (1..=2, 1..=2, Some(2)),
        (1..=1, 2..=3, None),
        (3..=4, 1..=2, None),
        (2..=4, 5..=6, None),
    ] {
        assert_eq!(choose_version(ours, theirs), chosen);
    }
}
