//! The suite that every device passes passes on the smallest one.

use super::*;
use crate::testing::device_suite;
use crate::virtio::{
    ActivateError, Activation, DeviceStateError, DeviceV1, RingPosition, VirtioDevice, stateless,
};

/// The smallest device that is one.
#[derive(Debug, Default)]
struct Idle(Vec<RingPosition>);

impl VirtioDevice for Idle {
    fn id(&self) -> &'static str {
        "_idle0"
    }
    fn kind(&self) -> Kind {
        Kind::Rng
    }
    fn queue_sizes(&self) -> &[u16] {
        &[64, 8]
    }
    fn features(&self) -> u64 {
        0
    }
    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.0 = activation.rings.iter().map(|r| r.start).collect();
        Ok(())
    }
    fn stop(&mut self) -> Result<Vec<RingPosition>, StopError> {
        Ok(std::mem::take(&mut self.0))
    }
    fn save(&self) -> DeviceV1 {
        DeviceV1::Stateless
    }
    fn restore(&mut self, saved: &DeviceV1) -> Result<(), DeviceStateError> {
        stateless(saved)
    }
}

#[test]
fn the_smallest_device_passes() {
    device_suite(|| Box::new(Idle::default()));
}
