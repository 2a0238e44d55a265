//! Guests that arrive.

use super::*;
use crate::guest::LogStart;
use crate::options::AtTimeout;
use crate::source::SendError;
use crate::testing::allocated_pages;

#[test]
fn a_guest_moves_over_each_kind_of_socket() {
    for at in ["tcp:127.0.0.1:0", "tcp:[::1]:0", "tcp:localhost:0", ""] {
        let mut guest = FakeSource::new(memory(&[8 << 20, 2 << 20]));
        fill(guest.memory(), 900, 5);
        let before = guest.memory().to_vec();
        let mut place = FakeDestination::new();
        let run = Run {
            at: at.parse().ok(),
            ..Run::default()
        };
        let end = run.run(&mut guest, &mut place);
        assert_one_guest(&guest, &place, &end, at);
        let snapshot = moved(end);
        assert_same(&before, &place);
        assert_eq!(place.state, b"the state of the guest");
        assert!(snapshot.downtime_us > 0, "{snapshot:?}");
        assert!(snapshot.total_us >= snapshot.downtime_us, "{snapshot:?}");
    }
}

#[test]
fn a_guest_that_writes_meanwhile_arrives_whole() {
    for (streams, start) in [
        (1, LogStart::AllDirty),
        (2, LogStart::Clean),
        (4, LogStart::AllDirty),
        (16, LogStart::AllDirty),
    ] {
        let mut guest = FakeSource::new(memory(&[32 << 20, 4 << 20])).with_log(start);
        fill(guest.memory(), 3000, streams.into());
        let mut guest = {
            let every = Duration::from_micros(20);
            guest = guest.with_vcpu(writer(4000, every));
            guest.with_vcpu(writer(8192, every))
        };
        let before = guest.memory().to_vec();
        let mut place = FakeDestination::new();
        let mut run = Run::default();
        run.options.streams = streams;
        run.options.downtime = Duration::from_millis(100);
        run.options.at_timeout = AtTimeout::Ignore;
        run.options.timeout = Duration::from_secs(5);
        let end = run.run(&mut guest, &mut place);
        assert_one_guest(&guest, &place, &end, "writing");
        let snapshot = moved(end);
        assert!(!snapshot.rounds.is_empty(), "{snapshot:?}");
        assert_same(&before, &place);
    }
}

#[test]
fn what_is_absent_costs_nothing_on_the_wire_and_nothing_in_memory() {
    let mut guest = FakeSource::new(memory(&[3 << 30, 61 << 30]));
    fill(guest.memory(), 100, 9);
    let before = guest.memory().to_vec();
    let allocated = allocated_pages(&before);
    let mut place = FakeDestination::new();
    let snapshot = moved(Run::default().run(&mut guest, &mut place));
    assert_same(&before, &place);
    assert_eq!(allocated_pages(&before), allocated, "the source grew");
    assert!(allocated_pages(place.memory()) <= allocated);
    let content = snapshot.scanned_bytes - snapshot.zero_bytes - snapshot.elided_bytes;
    let overhead = snapshot.sent_bytes - content;
    assert!(
        overhead < 64 << 10,
        "{overhead} bytes for 64 GiB: {snapshot:?}"
    );
    assert_eq!(snapshot.present_bytes, allocated * PAGE);
}

#[test]
fn pages_touched_after_discovery_arrive() {
    // Absent when memory is looked at, touched later: the log alone knows them.
    let guest = FakeSource::new(memory(&[64 << 20]));
    fill(guest.memory(), 2000, 1);
    let mut guest = guest.with_vcpu(|memory: &Memory, numbers: &mut Numbers| {
        memory.write(0, numbers.below(16384), &[9; PAGE_BYTES]);
        thread::sleep(Duration::from_micros(50));
    });
    let before = guest.memory().to_vec();
    let mut place = FakeDestination::new();
    let end = Run::default().run(&mut guest, &mut place);
    moved(end);
    assert_same(&before, &place);
}

#[test]
fn a_guest_goes_there_and_back_again_many_times() {
    let mut regions = memory(&[4 << 20]);
    fill(&regions, 300, 2);
    let run = Run::default();
    for _ in 0..20 {
        let mut guest =
            FakeSource::new(regions.clone()).with_vcpu(writer(500, Duration::from_micros(30)));
        let mut place = FakeDestination::new();
        let end = run.run(&mut guest, &mut place);
        assert_one_guest(&guest, &place, &end, "ping-pong");
        moved(end);
        assert_same(&regions, &place);
        regions = place.memory().to_vec();
    }
}

#[test]
fn a_guest_that_dirties_too_fast_stays_or_moves_as_asked() {
    for at_timeout in [AtTimeout::Cancel, AtTimeout::Ignore] {
        let guest = FakeSource::new(memory(&[32 << 20]));
        fill(guest.memory(), 3000, 4);
        let mut guest = guest.with_vcpu(writer(8192, Duration::ZERO));
        let before = guest.memory().to_vec();
        let mut place = FakeDestination::new();
        let mut run = Run::default();
        run.options.at_timeout = at_timeout;
        run.options.timeout = Duration::from_millis(400);
        // Nobody can be stopped that briefly.
        run.options.downtime = Duration::from_micros(1);
        let end = run.run(&mut guest, &mut place);
        assert_one_guest(&guest, &place, &end, "too fast");
        match at_timeout {
            AtTimeout::Ignore => {
                moved(end);
                assert_same(&before, &place);
            }
            AtTimeout::Cancel => {
                let failure = end.sent.unwrap_err();
                assert!(
                    matches!(
                        failure.error,
                        SendError::TimedOut { .. } | SendError::TimedOutCopying { .. }
                    ),
                    "{failure:?}"
                );
                assert!(guest.is_running());
            }
        }
    }
}

#[test]
fn the_bandwidth_is_kept() {
    let mut guest = FakeSource::new(memory(&[4 << 20]));
    for page in 0..1024 {
        guest.memory()[0].write(page, &[5; PAGE_BYTES]).unwrap();
    }
    let mut run = Run::default();
    run.options.streams = 4;
    run.options.bandwidth = Some(16 << 20);
    let snapshot = moved(run.run(&mut guest, &mut FakeDestination::new()));
    assert!(snapshot.sent_bytes >= 4 << 20);
    // 4 MiB at 16 MiB a second.
    assert!(snapshot.total_us >= 200_000, "{snapshot:?}");
}

#[test]
fn progress_is_told_meanwhile() {
    let mut guest = FakeSource::new(memory(&[8 << 20]));
    for page in 0..2048 {
        guest.memory()[0].write(page, &[5; PAGE_BYTES]).unwrap();
    }
    let mut place = FakeDestination::new();
    let directory = Directory::new();
    let door = Listener::bind(&directory.socket("x")).unwrap();
    let progress = Arc::<Progress>::default();
    let mut run = Run::default();
    run.options.bandwidth = Some(16 << 20);
    let phases = thread::scope(|scope| {
        let there = scope.spawn(|| {
            let cancel = Cancel::new().unwrap();
            receive(&door, &mut place, &run.options, &Arc::default(), &cancel)
        });
        let here = scope.spawn(|| {
            let cancel = Cancel::new().unwrap();
            send(&mut guest, door.address(), &run.options, &progress, &cancel)
        });
        let mut seen = Vec::new();
        while !here.is_finished() {
            let now = progress.snapshot();
            seen.push((now.phase, now.sent_bytes));
            thread::sleep(Duration::from_millis(5));
        }
        assert!(here.join().unwrap().is_ok() && there.join().unwrap().is_ok());
        seen
    });
    let copying: Vec<_> = phases
        .iter()
        .filter(|(phase, _)| *phase == crate::phase::Phase::Copy)
        .map(|(_, bytes)| *bytes)
        .collect();
    assert!(
        copying.is_sorted() && copying.first() < copying.last(),
        "{phases:?}"
    );
}
