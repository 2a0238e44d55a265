//! The control queue: every command, and chains that no driver should send.

use proptest::prelude::*;
use virtio_bindings::virtio_net as net;
use vm_memory::Address;

use super::*;
use crate::virtio::net::control::{Control, StateError};
use crate::virtio::net::serve::ControlQueue;

const ALL: u64 = u64::MAX;

struct Fixture {
    control: Arc<Mutex<Control>>,
    queue: ControlQueue,
    driver: Driver,
    ring: Ring,
}

impl Fixture {
    fn new(features: u64) -> Self {
        let mut control = Control::new(open_tap(4), MAC, 4, 1500);
        control.start(features, true).unwrap();
        let memory = memory();
        let ring = ring(2, CONTROL_AT);
        let control = Arc::new(Mutex::new(control));
        let negotiated = features & !bit(29);
        Self {
            queue: ControlQueue::new(memory.clone(), negotiated, &ring, &control).unwrap(),
            control,
            driver: Driver { memory, sent: 0 },
            ring,
        }
    }

    fn serve(&mut self) {
        self.ring.kick.write(1).unwrap();
        self.queue.serve().unwrap();
    }

    fn command(&mut self, pieces: &[&[u8]]) -> u8 {
        self.driver.send(pieces);
        self.serve();
        assert_eq!(self.driver.used(), self.driver.sent);
        assert!(self.ring.call.read().is_ok(), "the driver is interrupted");
        self.driver.status()
    }

    fn state(&self) -> NetV1 {
        lock(&self.control).state()
    }

    fn active_queues(&self) -> usize {
        lock(&self.control).tap().active_queues()
    }
}

const OK: u8 = 0;
const ERR: u8 = 1;

#[test]
fn queue_pairs_are_switched_on_the_tap() {
    let mut fixture = Fixture::new(ALL);
    assert_eq!(fixture.active_queues(), 1);
    for pairs in [4u8, 2, 1, 3] {
        assert_eq!(fixture.command(&[&[4, 0], &[pairs, 0]]), OK);
        assert_eq!(fixture.active_queues(), usize::from(pairs));
        assert_eq!(fixture.state().active_pairs, u16::from(pairs));
    }
    for wrong in [[0, 0], [5, 0], [1, 1], [0xff, 0xff]] {
        assert_eq!(fixture.command(&[&[4, 0], &wrong]), ERR);
        assert_eq!(fixture.active_queues(), 3);
    }
}

#[test]
fn the_mac_address_is_set_and_forgotten_with_the_driver() {
    let mut fixture = Fixture::new(ALL);
    assert_eq!(fixture.command(&[&[1, 1, 2, 0], &[0, 0, 0, 9]]), OK);
    assert_eq!(
        lock(&fixture.control).config_space()[..6],
        [2, 0, 0, 0, 0, 9]
    );
    assert_eq!(fixture.command(&[&[1, 1, 1, 0, 0, 0, 0, 9]]), ERR);
    assert_eq!(fixture.command(&[&[1, 1], &[0; 6]]), ERR);
    assert_eq!(fixture.state().mac, [2, 0, 0, 0, 0, 9]);
    lock(&fixture.control).start(ALL, false).unwrap();
    assert_eq!(fixture.state().mac, [2, 0, 0, 0, 0, 9], "a pause keeps it");
    lock(&fixture.control).start(ALL, true).unwrap();
    assert_eq!(fixture.state().mac, MAC);
}

#[test]
fn filters_are_accepted_when_they_are_whole() {
    let mut fixture = Fixture::new(ALL);
    for accepted in [
        &[&[0, 0], &[1][..]][..],
        &[&[0, 1], &[0]],
        &[&[2, 0], &[100, 0]],
        &[&[2, 1, 100], &[0]],
        &[&[1, 0], &[0; 4], &[0; 4]],
        &[&[1, 0], &[1, 0, 0, 0], &MAC, &[2, 0, 0, 0], &MAC, &MAC],
        // Longer than what is read, and what is there.
        &[&[1, 0], &[0xff; 4]],
    ] {
        assert_eq!(fixture.command(accepted), OK, "{accepted:?}");
    }
    for refused in [
        &[&[0, 2], &[1][..]][..],
        &[&[0, 0]],
        &[&[2, 0], &[1]],
        &[&[2, 2], &[1, 0]],
        &[&[1, 0], &[1, 0, 0, 0], &[0; 5]],
        &[&[1, 0], &[1, 0, 0, 0], &MAC],
        &[&[1, 0], &[0; 4], &[1, 0, 0, 0], &[0; 5]],
        &[&[0]],
        &[],
    ] {
        assert_eq!(fixture.command(refused), ERR, "{refused:?}");
    }
}

#[test]
fn an_announcement_is_pending_until_it_is_acknowledged() {
    let mut fixture = Fixture::new(ALL);
    lock(&fixture.control).set_announce();
    assert_eq!(lock(&fixture.control).config_space()[6], 3);
    assert_eq!(fixture.command(&[&[3, 0]]), OK);
    assert_eq!(lock(&fixture.control).config_space()[6], 1);
}

#[test]
fn offloads_are_switched_among_the_negotiated_ones() {
    let negotiated = bit(net::VIRTIO_NET_F_GUEST_CSUM) | bit(net::VIRTIO_NET_F_GUEST_TSO4);
    let mut fixture = Fixture::new(
        negotiated | bit(net::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) | bit(net::VIRTIO_NET_F_HOST_TSO4),
    );
    assert_eq!(fixture.state().guest_offloads, negotiated);
    for offloads in [0, bit(1), negotiated] {
        assert_eq!(fixture.command(&[&[5, 0], &offloads.to_le_bytes()]), OK);
        assert_eq!(fixture.state().guest_offloads, offloads);
    }
    for wrong in [bit(8), bit(0), bit(11), u64::MAX] {
        assert_eq!(fixture.command(&[&[5, 0], &wrong.to_le_bytes()]), ERR);
        assert_eq!(fixture.state().guest_offloads, negotiated);
    }
}

#[test]
fn commands_of_features_that_were_not_negotiated_are_refused() {
    let mut fixture = Fixture::new(bit(net::VIRTIO_NET_F_CTRL_VQ));
    assert_eq!(fixture.command(&[&[4, 0, 2, 0]]), ERR);
    assert_eq!(fixture.command(&[&[1, 1, 2, 0, 0, 0, 0, 9]]), ERR);
    assert_eq!(fixture.command(&[&[3, 0]]), ERR);
    assert_eq!(fixture.command(&[&[5, 0], &[0; 8]]), ERR);
    assert_eq!(fixture.command(&[&[6, 0], &[0; 8]]), ERR);
    assert_eq!(fixture.state().active_pairs, 1);
}

#[test]
fn chains_without_a_place_for_the_status_are_given_back_undone() {
    let mut fixture = Fixture::new(ALL);
    let driver = &mut fixture.driver;
    driver
        .memory
        .write_slice(&[4, 0, 2, 0], GuestAddress(BUFFERS_AT))
        .unwrap();
    driver.descriptor(0, BUFFERS_AT, 4, 0, 0);
    driver.make_available(0);
    // A status outside of RAM, a head that is no descriptor, a loop.
    driver.descriptor(1, BUFFERS_AT, 4, NEXT, 2);
    driver.descriptor(2, 0xdead_0000, 1, WRITE, 0);
    driver.make_available(1);
    driver.make_available(QUEUE);
    driver.descriptor(3, BUFFERS_AT, 4, NEXT, 3);
    driver.make_available(3);
    fixture.serve();
    assert_eq!(
        fixture.driver.used(),
        3,
        "the head beyond the table is skipped"
    );
    assert_eq!(fixture.active_queues(), 1);
    let position = lock(&fixture.control).ring_position();
    assert_eq!((position.next_avail, position.next_used), (4, 3));
    fixture.driver.send(&[&[4, 0, 2, 0]]);
    fixture.serve();
    assert_eq!((fixture.driver.status(), fixture.active_queues()), (OK, 2));
}

#[test]
fn an_available_index_beyond_the_queue_is_an_error_not_a_loop() {
    let mut fixture = Fixture::new(ALL);
    fixture.driver.sent = QUEUE;
    fixture.driver.make_available(0);
    fixture.ring.kick.write(1).unwrap();
    let error = fixture.queue.serve().unwrap_err().to_string();
    assert!(error.contains("available"), "{error}");
}

#[test]
fn a_queue_is_continued_where_it_stood_and_wraps() {
    let mut fixture = Fixture::new(ALL);
    let start = RingPosition {
        next_avail: 65534,
        next_used: 65534,
    };
    fixture.ring.start = start;
    fixture.driver.sent = start.next_avail;
    fixture.queue = ControlQueue::new(
        fixture.driver.memory.clone(),
        0,
        &fixture.ring,
        &fixture.control,
    )
    .unwrap();
    assert_eq!(lock(&fixture.control).ring_position(), start);
    for _ in 0..5 {
        assert_eq!(fixture.command(&[&[0, 0, 1]]), OK);
    }
    let position = lock(&fixture.control).ring_position();
    assert_eq!((position.next_avail, position.next_used), (3, 3));
}

#[test]
fn a_saved_state_that_does_not_fit_is_refused() {
    let fixture = Fixture::new(ALL);
    let mut control = lock(&fixture.control);
    let good = NetV1 {
        active_pairs: 3,
        announce: true,
        ..control.state()
    };
    control.restore(good).unwrap();
    control.start(ALL, false).unwrap();
    assert_eq!((control.state(), control.tap().active_queues()), (good, 3));
    for active_pairs in [0, 5] {
        let wrong = NetV1 {
            active_pairs,
            ..good
        };
        assert!(matches!(
            control.restore(wrong),
            Err(StateError::Pairs { .. })
        ));
    }
    let wrong = NetV1 {
        guest_offloads: 1,
        ..good
    };
    assert!(matches!(
        control.restore(wrong),
        Err(StateError::Offloads { .. })
    ));
    let wrong = NetV1 {
        mac: [3; 6],
        ..good
    };
    assert!(matches!(
        control.restore(wrong),
        Err(StateError::Mac { .. })
    ));
    let wrong = NetV1 { mtu: 9000, ..good };
    assert!(matches!(
        control.restore(wrong),
        Err(StateError::Mtu { .. })
    ));
    assert_eq!(control.state(), good);
}

/// Addresses near the edges of what is there.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => BUFFERS_AT..BUFFERS_AT + 64,
        1 => 0xff_f0u64..0x1_0010,
        1 => 0xf_fff0u64..0x10_0010,
        1 => CONTROL_AT..CONTROL_AT + 0x300,
        1 => any::<u64>(),
    ]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0u32..20, 1 => Just(u32::MAX), 1 => any::<u32>()]
}

fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let flags = prop_oneof![8 => 0u16..4, 1 => 4u16..8, 1 => any::<u16>()];
    let next = prop_oneof![8 => 0..QUEUE, 1 => any::<u16>()];
    (address(), length(), flags, next)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_a_driver_sends_the_device_stays_sound(
        rounds in prop::collection::vec((
            prop::collection::vec(descriptor(), usize::from(QUEUE)),
            prop::collection::vec((0u8..8, 0u8..3, any::<[u8; 10]>()), 5),
            prop::collection::vec(prop_oneof![9 => 0..QUEUE, 1 => any::<u16>()], 0..18),
        ), 1..4)
    ) {
        FUZZED.with(|fixture| {
            let mut fixture = fixture.borrow_mut();
            let memory = fixture.driver.memory.clone();
            memory.write_slice(&[0; 0x1000], GuestAddress(CONTROL_AT)).unwrap();
            fixture.driver.sent = 0;
            let Fixture { control, queue, ring, driver } = &mut *fixture;
            *queue = ControlQueue::new(memory.clone(), 0, ring, control).unwrap();
            for (descriptors, buffers, heads) in rounds {
                for (index, (addr, len, flags, next)) in (0..).zip(descriptors) {
                    driver.descriptor(index, addr, len, flags, next);
                }
                for (place, (class, command, data)) in (0..).zip(buffers) {
                    let at = GuestAddress(BUFFERS_AT + 12 * place);
                    memory.write_slice(&[class, command], at).unwrap();
                    memory.write_slice(&data, at.unchecked_add(2)).unwrap();
                }
                for head in heads {
                    driver.make_available(head);
                }
                let before = snapshot(&memory);
                let used = queue.used();
                ring.kick.write(1).unwrap();
                let broken = queue.serve().is_err();
                let answered = queue.used().wrapping_sub(used);
                prop_assert!(answered <= QUEUE);
                // Beside the used ring, one status for each chain, at most.
                let after = snapshot(&memory);
                let changed = changes(&before, &after)
                    .filter(|at| !(0x8200..0x8286).contains(at))
                    .count();
                prop_assert!(changed <= usize::from(answered));
                let control = lock(control);
                let state = control.state();
                prop_assert!((1..=4).contains(&state.active_pairs));
                prop_assert_eq!(control.tap().active_queues(), usize::from(state.active_pairs));
                prop_assert_eq!(state.mac[0] & 1, 0);
                prop_assert_eq!(state.guest_offloads & !0x782, 0);
                if broken {
                    break;
                }
            }
            Ok(())
        })?;
    }
}

thread_local! {
    static FUZZED: std::cell::RefCell<Fixture> = std::cell::RefCell::new(Fixture::new(ALL));
}

fn snapshot(memory: &GuestRam) -> Vec<u8> {
    let mut bytes = vec![0; 0x10_0000];
    memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

/// Where two snapshots differ; whole pages are compared first.
fn changes<'a>(before: &'a [u8], after: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let pages = before.chunks(0x1000).zip(after.chunks(0x1000)).enumerate();
    pages
        .filter(|(_, (old, new))| old != new)
        .flat_map(|(page, (old, new))| {
            let bytes = old.iter().zip(new).enumerate();
            bytes
                .filter(|(_, (old, new))| old != new)
                .map(move |(at, _)| 0x1000 * page + at)
        })
}
