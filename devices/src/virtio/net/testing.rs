//! The control queue alone, served when the test says so: for fuzzing without
//! a loop or a vhost back end. The tap is a real one.

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::control::Control;
use super::serve::ControlQueue;
use super::{features, lock};
use crate::GuestRam;
use crate::tap::{Tap, TapSource};
use crate::testing::DriverRing;

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const PAIRS: u16 = 4;

/// A network device of four queue pairs, as far as its control queue reaches.
#[derive(Debug)]
pub struct ControlGuest {
    memory: Arc<GuestRam>,
    control: Arc<Mutex<Control>>,
    kick: EventFd,
    call: EventFd,
    queue: Option<ControlQueue>,
    features: u64,
}

impl ControlGuest {
    /// Makes the tap.
    ///
    /// # Panics
    /// There is no `/dev/net/tun`, or no permission to make an interface.
    #[must_use]
    pub fn new(memory: Arc<GuestRam>) -> Self {
        let tap = Tap::open(TapSource::Create(None), PAIRS).expect("root and /dev/net/tun");
        let eventfd = || EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        Self {
            memory,
            control: Arc::new(Mutex::new(Control::new(tap, MAC, PAIRS, 1500))),
            kick: eventfd(),
            call: eventfd(),
            queue: None,
            features: 0,
        }
    }

    /// A driver starts on `ring`, or, unless `fresh`, goes on.
    ///
    /// # Panics
    /// The tap refused what the driver may ask of it.
    pub fn start(&mut self, ring: &DriverRing, features: u64, fresh: bool) {
        let started = lock(&self.control).start(features, fresh);
        started.expect("a start does nothing that a tap refuses");
        let ring = ring.ring(2, &self.kick, &self.call);
        let queue = ControlQueue::new(Arc::clone(&self.memory), features, &ring, &self.control);
        self.queue = Some(queue.expect("the ring is a valid one"));
        self.features = features;
        let _ = self.kick.read();
    }

    /// The driver kicks, and one round is served. Answers how many commands
    /// were answered, or `None` when the driver broke the ring.
    ///
    /// # Panics
    /// The device or its tap is in a state that it must not be in.
    pub fn serve(&mut self) -> Option<u16> {
        let queue = self.queue.as_mut().expect("it was started");
        let before = queue.used();
        self.kick.write(1).expect("kicks");
        let served = queue.serve();
        let answered = queue.used().wrapping_sub(before);
        let _ = self.call.read();

        let mut control = lock(&self.control);
        let state = control.state();
        assert!((1..=PAIRS).contains(&state.active_pairs), "{state:?}");
        assert_eq!(
            control.tap().active_queues(),
            usize::from(state.active_pairs)
        );
        assert_eq!(state.mac[0] & 1, 0, "{state:?}");
        let negotiated = features::guest_offloads(self.features);
        assert_eq!(state.guest_offloads & !negotiated, 0, "{state:?}");
        control.restore(state).expect("what was saved is valid");
        served.ok().map(|()| answered)
    }
}
