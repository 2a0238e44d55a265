//! A reset, and a device that is busy on another thread.

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber, SubscriberId};

use super::*;
use crate::device_loop::{DeviceLoop, LoopHandle};
use crate::virtio::{
    ActivateError, Activation, DeviceStateError, DeviceV1, RingPosition, VirtioDevice, stateless,
};

/// Announces a change of its configuration all the time.
struct Restless {
    always: EventFd,
    change: Arc<dyn ConfigChange>,
}

impl MutEventSubscriber for Restless {
    fn process(&mut self, _: Events, _: &mut EventOps) {
        self.change.notify();
    }
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new(&self.always, EventSet::IN)).unwrap();
    }
}

#[derive(Debug)]
struct Looped(LoopHandle, Option<SubscriberId>);

impl VirtioDevice for Looped {
    fn id(&self) -> &'static str {
        "_looped0"
    }
    fn kind(&self) -> Kind {
        Kind::Rng
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }
    fn features(&self) -> u64 {
        0
    }
    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let always = eventfd().unwrap();
        always.write(1).unwrap();
        let change = activation.config_change;
        let added = self.0.add(Box::new(Restless { always, change }));
        self.1 = Some(added.unwrap());
        Ok(())
    }
    fn stop(&mut self) -> Result<Vec<RingPosition>, StopError> {
        if let Some(id) = self.1.take() {
            self.0.remove(id).unwrap();
        }
        Ok(Vec::new())
    }
    fn save(&self) -> DeviceV1 {
        DeviceV1::Stateless
    }
    fn restore(&mut self, saved: &DeviceV1) -> Result<(), DeviceStateError> {
        stateless(saved)
    }
}

/// The vCPU holds the function's lock while it waits for the loop, and the
/// loop raises the configuration interrupt: a lock there would stop both.
#[test]
fn a_reset_does_not_wait_for_a_device_that_interrupts() {
    let device_loop = DeviceLoop::spawn("loop", || ()).unwrap();
    let device = Looped(device_loop.handle(), None);
    let ram = guest_ram(&[(0, 0x1000)]);
    let doorbells = Arc::new(FakeDoorbells::default());
    let function = VirtioPci::new(Box::new(device), ram, &FakeMsi::default(), doorbells);
    let function = function.unwrap();
    let put = |at: u64, data: &[u8]| {
        let _ = function.bar_write(0, at, data);
    };
    for _ in 0..200 {
        put(0x14, &[1]);
        put(0x14, &[3]);
        put(8, &[1, 0, 0, 0]);
        put(12, &[1, 0, 0, 0]);
        put(0x14, &[0xb]);
        put(0x14, &[0xf]);
        assert!(function.is_active());
        put(0x14, &[0]);
        assert!(!function.is_active());
    }
}
