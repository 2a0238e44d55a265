//! Whatever a guest does.

use proptest::prelude::*;

use super::*;

fn space() -> impl Strategy<Value = Space> {
    prop_oneof![
        Just(Space::Ports),
        Just(Space::Ecam),
        Just(Space::Low),
        Just(Space::High),
        (0..2_u8).prop_map(Space::Config),
        (0..2_u8).prop_map(Space::Bar),
    ]
}

fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![
        0..0x40_u32,
        0..0x100_u32,
        0x3000..0x3010_u32,
        0x4000..0x4040_u32,
        0..0x10_0000_u32
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        0..20_u64,
        any::<u64>(),
        Just(u64::MAX),
        Just(0xc000_0000),
        Just(0x10_0000_8000)
    ];
    prop_oneof![
        3 => (space(), offset(), 1..9_u8).prop_map(|(s, o, l)| Step::Read(s, o, l)),
        9 => (space(), offset(), 1..9_u8, value).prop_map(|(s, o, l, v)| Step::Write(s, o, l, v)),
        2 => (0..2_u8, prop_oneof![Just(0), 0..0x3_0000_u32]).prop_map(|(w, o)| Step::BringUp(w, o)),
        1 => (0..2_u8).prop_map(Step::Pause),
        1 => (0..2_u8).prop_map(Step::Resume),
        1 => (0..2_u8).prop_map(Step::Restore),
        1 => (0..2_u8).prop_map(Step::Change),
        1 => (0..2_u8, any::<bool>()).prop_map(|(w, f)| Step::Fail(w, f)),
    ]
}

proptest! {
    #[test]
    fn whatever_a_guest_does_nothing_breaks_or_is_left(
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut guest = PciGuest::new();
        for step in steps {
            guest.step(step);
        }
        guest.finish();
    }
}
