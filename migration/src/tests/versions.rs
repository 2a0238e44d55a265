//! What each version of the protocol tells.

use super::*;
use crate::channel::{Link, Patience, Stop};
use crate::destination::serve;
use crate::wire::VERSIONS;
use crate::wire::message::Message;

/// Moves a guest while both sides speak `version`; what each of them knows of it.
fn moved_by(version: u16) -> [Snapshot; 2] {
    let directory = Directory::new();
    let door = Listener::bind(&directory.socket("door")).unwrap();
    let options = Options::default();
    let mut guest = small();
    let before = guest.memory().to_vec();
    let mut place = FakeDestination::new();
    let (sent, received) = thread::scope(|scope| {
        let there = scope.spawn(|| {
            let stop = Stop::new(&Cancel::new().unwrap()).unwrap();
            let accept = || door.accept(&stop, Some(options.stall));
            let control = Link::new(accept().unwrap(), stop.clone(), options.stall).unwrap();
            let patience = Patience::For(options.stall);
            let Message::Hello(mut hello) = control.receive(patience, "greeting").unwrap() else {
                panic!("no HELLO")
            };
            assert_eq!(hello.oldest..=hello.newest, VERSIONS);
            // As an older source says it.
            hello.newest = version;
            serve(
                control,
                hello,
                accept,
                &mut place,
                &options,
                &Arc::default(),
            )
        });
        let (progress, cancel) = (Arc::default(), Cancel::new().unwrap());
        let sent = send(&mut guest, door.address(), &options, &progress, &cancel);
        (sent, there.join().unwrap())
    });
    let end = End { sent, received };
    assert_one_guest(&guest, &place, &end, &format!("version {version}"));
    assert_same(&before, &place);
    let there = end
        .received
        .as_ref()
        .map(|arrived| arrived.snapshot.clone());
    let there = there.unwrap();
    [moved(end), there]
}

#[test]
fn the_previous_version_moves_guests_too() {
    let [here, there] = moved_by(1);
    assert!(here.downtime_us > 0, "{here:?}");
    assert_eq!(there.downtime_us, 0, "{there:?}");
}

/// Both sides are processes of one boot here, so that their accounts differ by no more than
/// what lies between the two ends of a message.
#[test]
fn both_sides_know_how_long_the_guest_stood_still() {
    let [here, there] = moved_by(*VERSIONS.end());
    assert!(there.downtime_us > 0, "{there:?}");
    let parts = |snapshot: &Snapshot, phase: Phase| {
        let mut parts = snapshot.phase_us.iter();
        parts.find(|(p, _)| *p == phase).map_or(0, |(_, us)| *us)
    };
    let apart = here.downtime_us.abs_diff(there.downtime_us);
    let exchange = parts(&here, Phase::Handover) + parts(&here, Phase::Running);
    assert!(apart <= exchange + here.round_trip_us, "{here:?} {there:?}");
    for phase in [
        Phase::Describe,
        Phase::Copy,
        Phase::Handover,
        Phase::Running,
    ] {
        assert!(parts(&there, phase) > 0, "{phase:?}: {there:?}");
    }
    assert_eq!(there.present_bytes, here.present_bytes);
}
