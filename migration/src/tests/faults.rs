//! Failures of every kind at every place: one guest or a paused one, never two.

use super::*;
use crate::channel::ChannelError;
use crate::source::{GuestIs, SendError};

const SOURCE_STEPS: [Step; 6] = [
    Step::Description,
    Step::StartLog,
    Step::Dirty(0),
    Step::Dirty(1),
    Step::Stop,
    Step::Save,
];
const DESTINATION_STEPS: [Step; 2] = [Step::Prepare, Step::Restore];

#[test]
fn a_step_that_fails_leaves_the_guest_at_the_source() {
    let steps = || SOURCE_STEPS.into_iter().chain(DESTINATION_STEPS);
    for (at, door) in steps().flat_map(|at| [(at, ""), (at, "tcp:127.0.0.1:0")]) {
        let fail = move |step| {
            if step == at {
                return Err(format!("told to fail at {step:?}"));
            }
            Ok(())
        };
        let mut guest = small().with_hook(fail);
        let mut place = FakeDestination::new().with_hook(fail);
        let run = Run {
            at: door.parse().ok(),
            ..Run::default()
        };
        let end = run.run(&mut guest, &mut place);
        assert_one_guest(&guest, &place, &end, &format!("{at:?}"));
        // Both sides tell the same cause, whichever met it.
        let here = crate::chain(&end.sent.unwrap_err());
        let there = crate::chain(&end.received.unwrap_err());
        assert!(here.contains("told to fail"), "{at:?}: {here}");
        assert!(there.contains("told to fail"), "{at:?}: {there}");
    }
}

#[test]
fn a_guest_that_cannot_resume_is_told() {
    let mut guest = small().with_hook(|step| match step {
        Step::Save | Step::Resume => Err(format!("told to fail at {step:?}")),
        _ => Ok(()),
    });
    let mut place = FakeDestination::new();
    let failure = Run::default().run(&mut guest, &mut place).sent.unwrap_err();
    assert!(matches!(failure.guest, GuestIs::Stuck(_)), "{failure:?}");
    assert!(
        failure
            .to_string()
            .contains("could not be resumed: told to fail at Resume")
    );
}

#[test]
fn a_cancel_is_heeded_until_the_hand_over() {
    for at in SOURCE_STEPS.into_iter().chain(DESTINATION_STEPS) {
        for from_source in [true, false] {
            let run = Run::default();
            let cancel = if from_source {
                run.cancel_source.clone()
            } else {
                run.cancel_destination.clone()
            };
            let ask = move |step| {
                if step == at {
                    cancel.cancel();
                }
                Ok(())
            };
            let mut guest = small().with_hook(ask.clone());
            let mut place = FakeDestination::new().with_hook(ask);
            let end = run.run(&mut guest, &mut place);
            let what = format!("cancel at {at:?}, from the source: {from_source}");
            assert_one_guest(&guest, &place, &end, &what);
            assert!(end.sent.is_err(), "{what}");
        }
    }
}

/// Not a cancel, but what happened, at both sides.
#[test]
fn why_a_migration_became_pointless_is_told() {
    let run = Run::default();
    let cancel = run.cancel_source.clone();
    let mut guest = small().with_hook(move |step| {
        if step == Step::Dirty(0) {
            cancel.because("The guest switched itself off");
            // The first reason stays.
            cancel.because("The process was asked to end");
        }
        Ok(())
    });
    let mut place = FakeDestination::new();
    let end = run.run(&mut guest, &mut place);
    assert_one_guest(&guest, &place, &end, "pointless");
    let here = crate::chain(&end.sent.unwrap_err());
    let there = crate::chain(&end.received.unwrap_err());
    for said in [here, there] {
        assert!(said.ends_with("The guest switched itself off"), "{said}");
    }
}

#[test]
fn a_cancel_after_the_hand_over_changes_nothing() {
    let run = Run::default();
    let cancels = [run.cancel_source.clone(), run.cancel_destination.clone()];
    let mut guest = small();
    let mut place = FakeDestination::new().with_hook(move |step| {
        if step == Step::Run {
            cancels.iter().for_each(Cancel::cancel);
        }
        Ok(())
    });
    let end = run.run(&mut guest, &mut place);
    assert_one_guest(&guest, &place, &end, "late cancel");
    moved(end);
}

#[test]
fn a_cancel_wakes_whoever_waits() {
    // The destination waits for a source that never comes.
    let directory = Directory::new();
    let door = Listener::bind(&directory.socket("x")).unwrap();
    let cancel = Cancel::new().unwrap();
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            let mut place = FakeDestination::new();
            receive(
                &door,
                &mut place,
                &Options::default(),
                &Arc::default(),
                &cancel,
            )
            .map(|_| ())
        });
        thread::sleep(Duration::from_millis(50));
        cancel.cancel();
        let error = there.join().unwrap().unwrap_err();
        assert!(matches!(
            error,
            ReceiveError::Channel(ChannelError::Cancelled)
        ));
    });
    // The source waits for a destination that takes its time.
    let run = Run::default();
    let cancel = run.cancel_source.clone();
    let mut guest = small();
    let mut place = FakeDestination::new().with_hook(move |step| {
        if step == Step::Prepare {
            cancel.cancel();
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    });
    let end = run.run(&mut guest, &mut place);
    assert_one_guest(&guest, &place, &end, "slow destination");
    assert_eq!(end.sent.unwrap_err().phase, Phase::Describe);
}

/// How many bytes each connection carries, each way, when nothing goes wrong;
/// the way back is short and known to be below this.
const BACK_BYTES: usize = 900;

fn faulty(fault: (usize, Way, Fault), stall: Duration) -> (FakeSource, FakeDestination, End) {
    let mut run = Run {
        fault: Some(fault),
        ..Run::default()
    };
    run.options.stall = stall;
    run.options.stopped = stall;
    run.options.prepare = stall;
    let mut guest = small();
    let mut place = FakeDestination::new();
    let end = run.run(&mut guest, &mut place);
    (guest, place, end)
}

fn recorded() -> Vec<Vec<u8>> {
    let run = Run {
        fault: Some((9, Way::Forth, Fault::Cut(0))),
        ..Run::default()
    };
    let (end, records) = run.run_recorded(&mut small(), &mut FakeDestination::new());
    moved(end);
    records
}

#[test]
fn a_peer_that_dies_at_any_byte_leaves_one_guest() {
    let lengths: Vec<_> = recorded().iter().map(Vec::len).collect();
    let mut outcomes = [0; 3];
    for (connection, &length) in lengths.iter().enumerate() {
        // A guest's memory is too long for each byte; a prime step meets each
        // part of a frame.
        let step = if connection == 0 { 7 } else { 397 };
        let forth = (0..length + 1).step_by(step).map(|at| (Way::Forth, at));
        let back = (0..BACK_BYTES).step_by(13).map(|at| (Way::Back, at));
        for (way, at) in forth.chain(back) {
            let (guest, place, end) =
                faulty((connection, way, Fault::Cut(at)), Duration::from_secs(5));
            assert_one_guest(&guest, &place, &end, &format!("{connection} {way:?} {at}"));
            outcomes[match end.sent {
                Err(_) => 0,
                Ok(Outcome::Ambiguous { .. }) => 1,
                Ok(Outcome::Moved(_)) => 2,
            }] += 1;
        }
    }
    assert!(outcomes[0] > 0 && outcomes[2] > 0, "{outcomes:?}");
}

#[test]
fn a_cut_cable_ends_in_a_time_out() {
    for fault in [
        (0, Way::Forth, Fault::Swallow(0)),
        (0, Way::Forth, Fault::Swallow(300)),
        (0, Way::Back, Fault::Swallow(30)),
        (1, Way::Forth, Fault::Swallow(2000)),
        (1, Way::Back, Fault::Swallow(0)),
    ] {
        let (guest, place, end) = faulty(fault, Duration::from_millis(400));
        assert_one_guest(&guest, &place, &end, &format!("{fault:?}"));
        assert!(end.sent.is_err(), "{fault:?}: {:?}", end.sent);
    }
}

#[test]
fn a_slow_wire_is_only_slow() {
    let slow = Fault::Slow(Duration::from_millis(3));
    for connection in [0, 1] {
        for way in [Way::Forth, Way::Back] {
            let (guest, place, end) = faulty((connection, way, slow), Duration::from_secs(20));
            assert_one_guest(&guest, &place, &end, "slow");
            moved(end);
        }
    }
}

#[test]
fn a_lost_last_word_leaves_the_source_paused() {
    // Of what comes back on the control connection, RUNNING is the last frame.
    let length = {
        let mut at = BACK_BYTES;
        loop {
            at -= 1;
            let (.., end) = faulty((0, Way::Back, Fault::Cut(at)), Duration::from_secs(5));
            if matches!(end.sent, Ok(Outcome::Ambiguous { .. })) {
                break at;
            }
            assert!(at > 0, "no cut was ambiguous");
        }
    };
    let (guest, place, end) = faulty((0, Way::Back, Fault::Cut(length)), Duration::from_secs(5));
    assert_one_guest(&guest, &place, &end, "ambiguous");
    assert_eq!(place.runs(), 1);
    assert!(!guest.is_running() && count(&guest.steps, Step::Release) == 0);
    assert_same(guest.memory(), &place);
}

#[test]
fn a_guest_that_does_not_run_there_is_not_run_here() {
    let mut guest = small();
    let mut place = FakeDestination::new().with_hook(|step| match step {
        Step::Run => Err("told to fail".to_owned()),
        _ => Ok(()),
    });
    let end = Run::default().run(&mut guest, &mut place);
    let Ok(Outcome::Ambiguous { reason, .. }) = end.sent else {
        panic!("{:?}", end.sent);
    };
    assert!(reason.contains("does not run here"), "{reason}");
    assert!(matches!(end.received, Err(ReceiveError::Run(_))));
    assert_eq!(count(&guest.steps, Step::Resume), 0);
    assert_eq!(count(&place.steps, Step::Abandon), 0);
}

#[test]
fn a_refusal_tells_every_reason() {
    let mut guest = small();
    let mut place = FakeDestination::new().with_most_bytes(PAGE);
    let end = Run::default().run(&mut guest, &mut place);
    assert_one_guest(&guest, &place, &end, "refused");
    let SendError::Refused(reasons) = end.sent.unwrap_err().error else {
        panic!("not refused");
    };
    assert_eq!(reasons, ["the description makes no sense"]);
}

#[test]
fn strangers_at_the_door_are_turned_away() {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    let directory = Directory::new();
    let at = directory.socket("door");
    let Address::Unix(path) = at.clone() else {
        unreachable!()
    };
    let door = Listener::bind(&at).unwrap();
    let mut place = FakeDestination::new();
    let mut guest = small();
    let run = Run::default();
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            let cancel = Cancel::new().unwrap();
            receive(&door, &mut place, &run.options, &Arc::default(), &cancel)
        });
        drop(UnixStream::connect(&path).unwrap());
        let mut loud = UnixStream::connect(&path).unwrap();
        loud.write_all(b"GET / HTTP/1.1\r\nHost: nobody at all\r\n\r\n")
            .unwrap();
        let _silent = UnixStream::connect(&path).unwrap();
        let cancel = Cancel::new().unwrap();
        let sent = send(&mut guest, &at, &run.options, &Arc::default(), &cancel);
        assert!(matches!(sent, Ok(Outcome::Moved(_))), "{sent:?}");
        assert!(there.join().unwrap().is_ok());
    });
}

#[test]
fn nobody_there_is_an_error_at_once() {
    let mut guest = small();
    let cancel = Cancel::new().unwrap();
    for to in ["unix:/nowhere/at/all", "tcp:127.0.0.1:1"] {
        let to = to.parse().unwrap();
        let failure = send(
            &mut guest,
            &to,
            &Options::default(),
            &Arc::default(),
            &cancel,
        )
        .unwrap_err();
        assert!(
            matches!(
                failure.error,
                SendError::Channel(ChannelError::Connect { .. })
            ),
            "{failure:?}"
        );
    }
}

#[test]
fn streams_are_bounded() {
    for streams in [0, 129] {
        let mut run = Run::default();
        run.options.streams = streams;
        let mut guest = small();
        let end = run.run(&mut guest, &mut FakeDestination::new());
        assert!(matches!(end.sent.unwrap_err().error, SendError::Streams(_)));
    }
    let mut run = Run::default();
    run.options.streams = 128;
    moved(run.run(&mut small(), &mut FakeDestination::new()));
}
