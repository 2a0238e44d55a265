//! Memory passed as files.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::source::SendError;
use crate::testing::allocated_pages;

fn local() -> Run {
    let mut run = Run::default();
    run.options.local = true;
    run
}

#[test]
fn memory_is_passed_and_not_copied() {
    let guest = FakeSource::new(memory(&[8 << 20, 1 << 34]));
    fill(guest.memory(), 900, 5);
    let mut guest = guest.with_vcpu(writer(2000, Duration::from_micros(10)));
    let (here, there) = UnixStream::pair().unwrap();
    guest.devices = vec![there.into()];
    let before = guest.memory().to_vec();
    let mut place = FakeDestination::new();
    let end = local().run(&mut guest, &mut place);
    assert_one_guest(&guest, &place, &end, "local");
    let snapshot = moved(end);
    assert_same(&before, &place);
    assert_eq!(snapshot.sent_bytes, 0);
    assert_eq!(place.state, b"the state of the guest");
    // One memory: what is written here is seen there.
    before[0].write(0, &[0xab; PAGE_BYTES]).unwrap();
    assert_same(&before, &place);
    assert_eq!(allocated_pages(&before), allocated_pages(place.memory()));
    assert_eq!(count(&guest.steps, Step::StartLog), 0);
    // And so is what a device holds open.
    let [device] = <[_; 1]>::try_from(place.devices).unwrap();
    UnixStream::from(device).write_all(b"x").unwrap();
    let mut byte = [0];
    (&here).read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x");
}

#[test]
fn files_do_not_travel_over_tcp() {
    let mut run = local();
    run.at = "tcp:127.0.0.1:0".parse().ok();
    let mut guest = small();
    let mut place = FakeDestination::new();
    let end = run.run(&mut guest, &mut place);
    assert_one_guest(&guest, &place, &end, "tcp");
    assert!(matches!(
        end.sent.unwrap_err().error,
        SendError::LocalNeedsUnix(_)
    ));
}

#[test]
fn a_failure_at_any_step_leaves_the_guest_at_the_source() {
    for step in [Step::Description, Step::Stop, Step::Save] {
        let mut guest = small().with_hook(failing(step));
        let mut place = FakeDestination::new();
        let end = local().run(&mut guest, &mut place);
        assert_one_guest(&guest, &place, &end, &format!("{step:?}"));
        assert!(end.sent.is_err());
    }
    for step in [Step::Prepare, Step::Restore] {
        let mut guest = small();
        let mut place = FakeDestination::new().with_hook(failing(step));
        let end = local().run(&mut guest, &mut place);
        assert_one_guest(&guest, &place, &end, &format!("{step:?}"));
        assert!(end.sent.is_err());
    }
}

fn failing(at: Step) -> impl FnMut(Step) -> Result<(), String> + Send {
    move |step| {
        if step == at {
            Err(format!("told to fail at {step:?}"))
        } else {
            Ok(())
        }
    }
}
