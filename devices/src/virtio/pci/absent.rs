//! What stands in a transport after its device was taken back: nothing that a
//! guest could still reach.

use crate::virtio::{
    ActivateError, Activation, DeviceStateError, DeviceV1, Kind, RingPosition, StopError,
    VirtioDevice, stateless,
};

#[derive(Debug)]
pub(super) struct Absent;

impl VirtioDevice for Absent {
    fn id(&self) -> &str {
        "absent"
    }

    fn kind(&self) -> Kind {
        Kind::Rng
    }

    fn queue_sizes(&self) -> &[u16] {
        &[]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, _: Activation) -> Result<(), ActivateError> {
        Err(ActivateError {
            device: self.id().to_owned(),
            attempt: "the device was taken back".to_owned(),
            source: "it is behind another function now".into(),
        })
    }

    fn stop(&mut self) -> Result<Vec<RingPosition>, StopError> {
        Ok(Vec::new())
    }

    fn save(&self) -> DeviceV1 {
        DeviceV1::Stateless
    }

    fn restore(&mut self, saved: &DeviceV1) -> Result<(), DeviceStateError> {
        stateless(saved)
    }
}
