use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::virtio::{
    ActivateError, Activation, DeviceStateError, DeviceV1, Kind, RingPosition, StopError,
    VirtioDevice, stateless,
};

/// What happened to a [`FakeDevice`], and how it is to behave.
#[derive(Debug, Default)]
pub struct FakeDeviceLog {
    /// What it got when it was activated; `None` while it is stopped.
    pub active: Option<Activation>,
    /// How often it was activated.
    pub activations: usize,
    /// Refuse to start.
    pub fail_activate: bool,
    /// Lose the positions when stopped.
    pub fail_stop: bool,
}

/// A device that serves nothing, but insists on what its transport promised.
/// Each ring moves on by one entry each time that the device is stopped.
#[derive(Debug)]
pub struct FakeDevice {
    sizes: Vec<u16>,
    features: u64,
    config: [u8; 8],
    log: Arc<Mutex<FakeDeviceLog>>,
}

impl FakeDevice {
    /// A device with queues of these sizes, that offers `features`.
    #[must_use]
    pub fn new(sizes: &[u16], features: u64) -> (Self, Arc<Mutex<FakeDeviceLog>>) {
        let log = Arc::<Mutex<FakeDeviceLog>>::default();
        let device = Self {
            sizes: sizes.to_vec(),
            features,
            config: [1, 2, 3, 4, 5, 6, 7, 8],
            log: Arc::clone(&log),
        };
        (device, log)
    }
}

fn check(activation: &Activation, sizes: &[u16]) {
    let in_ram = |address: GuestAddress, length: u64| {
        let length = usize::try_from(length).expect("64 bits");
        activation.memory.check_range(address, length)
    };
    let mut last = None;
    for ring in &activation.rings {
        assert!(last < Some(ring.index), "rings are ordered by index");
        last = Some(ring.index);
        assert!(ring.size.is_power_of_two() && ring.size <= sizes[usize::from(ring.index)]);
        let size = u64::from(ring.size);
        assert!(ring.desc.0.is_multiple_of(16) && in_ram(ring.desc, 16 * size));
        assert!(ring.avail.0.is_multiple_of(2) && in_ram(ring.avail, 6 + 2 * size));
        assert!(ring.used.0.is_multiple_of(4) && in_ram(ring.used, 6 + 8 * size));
    }
}

impl VirtioDevice for FakeDevice {
    fn id(&self) -> &'static str {
        "_fake0"
    }

    fn kind(&self) -> Kind {
        Kind::Net
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (at, byte) in (offset..=u64::MAX).zip(data) {
            let at = usize::try_from(at).ok();
            *byte = at.and_then(|at| self.config.get(at)).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let places = self.config.iter_mut().skip(skip).zip(data);
        places.for_each(|(byte, new)| *byte = *new);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(log.active.is_none(), "activated twice");
        check(&activation, &self.sizes);
        let extra = activation.features & !(self.features | 1 << 32);
        assert_eq!(extra, 0, "features that are not offered");
        if log.fail_activate {
            return Err(ActivateError {
                device: self.id().to_owned(),
                attempt: "start".to_owned(),
                source: "told to fail".into(),
            });
        }
        log.active = Some(activation);
        log.activations += 1;
        Ok(())
    }

    fn stop(&mut self) -> Result<Vec<RingPosition>, StopError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let activation = log.active.take();
        if log.fail_stop {
            return Err(StopError {
                device: self.id().to_owned(),
                attempt: "stop".to_owned(),
                source: "told to fail".into(),
            });
        }
        let moved = |start: RingPosition| RingPosition {
            next_avail: start.next_avail.wrapping_add(1),
            next_used: start.next_used.wrapping_add(1),
        };
        let rings = activation.into_iter().flat_map(|a| a.rings);
        Ok(rings.map(|ring| moved(ring.start)).collect())
    }

    fn save(&self) -> DeviceV1 {
        DeviceV1::Stateless
    }

    fn restore(&mut self, saved: &DeviceV1) -> Result<(), DeviceStateError> {
        stateless(saved)
    }
}
