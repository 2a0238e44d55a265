//! The transport's saved form.

use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::queue::{Queue, QueueError};
use super::{VirtioPci, status};
use crate::pci::config::RestoreConfigError;
use crate::pci::msix::VectorV1;
use crate::virtio::{DeviceStateError, DeviceV1, RingPosition};

/// One queue, first version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueV1 {
    /// Number of descriptors.
    pub size: u16,
    /// MSI-X vector, 0xffff for none.
    pub vector: u16,
    /// The driver enabled it.
    pub enabled: bool,
    /// Guest-physical address of the descriptor area.
    pub desc: u64,
    /// Guest-physical address of the driver area.
    pub driver: u64,
    /// Guest-physical address of the device area.
    pub device: u64,
    /// The next entry of the available ring that the device will take.
    pub next_avail: u16,
    /// The next entry of the used ring that the device will write.
    pub next_used: u16,
}

/// The whole function with its device, first version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioPciV1 {
    /// PCI configuration space.
    pub config: Vec<u8>,
    /// MSI-X vectors.
    pub vectors: Vec<VectorV1>,
    /// Features that the driver accepted.
    pub accepted: u64,
    /// `device_feature_select`.
    pub device_feature_select: u32,
    /// `driver_feature_select`.
    pub driver_feature_select: u32,
    /// `device_status`.
    pub status: u8,
    /// `config_msix_vector`.
    pub config_vector: u16,
    /// `config_generation`.
    pub generation: u8,
    /// ISR status.
    pub isr: u8,
    /// `queue_select`.
    pub queue_select: u16,
    /// The queues.
    pub queues: Vec<QueueV1>,
    /// What the device keeps itself.
    pub device: DeviceV1,
}

/// A saved transport does not fit the device here.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Another kind of device, or an edited one.
    #[error("Could not restore device {device}")]
    Config {
        /// The device's id.
        device: String,
        /// Where it differs.
        #[source]
        source: RestoreConfigError,
    },
    /// Queues or vectors are not as many.
    #[error("Could not restore device {device}: it had {saved} {what}, and has {here} here")]
    Count {
        /// The device's id.
        device: String,
        /// Queues or vectors.
        what: &'static str,
        /// How many were saved.
        saved: usize,
        /// How many there are.
        here: usize,
    },
    /// No driver can have written this status.
    #[error("Could not restore device {device}: status {status:#04x} does not exist")]
    Status {
        /// The device's id.
        device: String,
        /// The saved status.
        status: u8,
    },
    /// The driver uses what this host does not offer.
    #[error(
        "Could not restore device {device}: its driver uses features {accepted:#x}, of which \
         {missing:#x} are not offered here"
    )]
    Features {
        /// The device's id.
        device: String,
        /// What the driver uses.
        accepted: u64,
        /// What is missing.
        missing: u64,
    },
    /// The device refused its own part.
    #[error("Could not restore device {device}")]
    Device {
        /// The device's id.
        device: String,
        /// Why.
        #[source]
        source: DeviceStateError,
    },
    /// A queue that is enabled cannot work.
    #[error("Could not restore device {device}: queue {queue}")]
    Queue {
        /// The device's id.
        device: String,
        /// Index of the queue.
        queue: usize,
        /// What is wrong with it.
        #[source]
        source: QueueError,
    },
}

impl VirtioPci {
    /// The state of transport and device. The positions of the rings are current
    /// only while it is paused.
    #[must_use]
    pub fn save(&self) -> VirtioPciV1 {
        let function = self.function.lock().unwrap_or_else(PoisonError::into_inner);
        let common = &function.transport.common;
        let queue = |queue: &Queue| QueueV1 {
            size: queue.size,
            vector: queue.vector,
            enabled: queue.enabled,
            desc: queue.desc,
            driver: queue.driver,
            device: queue.device,
            next_avail: queue.position.next_avail,
            next_used: queue.position.next_used,
        };
        VirtioPciV1 {
            config: function.config.bytes().to_vec(),
            vectors: function.msix.save(),
            accepted: common.accepted,
            device_feature_select: common.device_feature_select,
            driver_feature_select: common.driver_feature_select,
            status: common.status(),
            config_vector: common.notifier.vector(),
            generation: common.notifier.generation(),
            isr: common.notifier.isr(),
            queue_select: common.queue_select,
            queues: common.queues.iter().map(queue).collect(),
            device: function.transport.device.save(),
        }
    }

    /// Takes over a saved state, checking all of it. The transport is paused
    /// then: [`resume`](Self::resume) starts the device where its rings stood.
    ///
    /// # Errors
    /// The state is not one of such a device, or not one that a driver can have
    /// brought about.
    pub fn restored(self, saved: &VirtioPciV1) -> Result<Self, RestoreError> {
        self.restore(saved)?;
        Ok(self)
    }

    /// As [`restored`](Self::restored), of a function that is behind its root
    /// already and that no driver has used: the root is to be told by
    /// [`PciRoot::refresh`](crate::pci::PciRoot::refresh).
    ///
    /// # Errors
    /// As above.
    pub fn restore(&self, saved: &VirtioPciV1) -> Result<(), RestoreError> {
        {
            let mut guard = self.function.lock().unwrap_or_else(PoisonError::into_inner);
            let function = &mut *guard;
            let device = function.transport.device.id().to_owned();
            let common = &mut function.transport.common;

            check_count(&device, "queues", saved.queues.len(), common.queues.len())?;
            let vectors = usize::from(common.vectors);
            check_count(&device, "vectors", saved.vectors.len(), vectors)?;
            if !status::is_reachable(saved.status) {
                let status = saved.status;
                return Err(RestoreError::Status { device, status });
            }
            let agreed = saved.status & status::FEATURES_OK != 0;
            if agreed && !common.may_accept(saved.accepted) {
                let missing = saved.accepted & !common.offered;
                let accepted = saved.accepted;
                return Err(RestoreError::Features {
                    device,
                    accepted,
                    missing,
                });
            }
            let mut queues = Vec::with_capacity(saved.queues.len());
            for (index, (saved, here)) in saved.queues.iter().zip(&common.queues).enumerate() {
                let queue = Queue {
                    max_size: here.max_size,
                    size: saved.size,
                    vector: common.checked_vector(saved.vector),
                    enabled: saved.enabled,
                    desc: saved.desc,
                    driver: saved.driver,
                    device: saved.device,
                    position: RingPosition {
                        next_avail: saved.next_avail,
                        next_used: saved.next_used,
                    },
                };
                if queue.enabled
                    && let Err(source) = queue.check(&function.transport.memory)
                {
                    return Err(RestoreError::Queue {
                        device,
                        queue: index,
                        source,
                    });
                }
                queues.push(queue);
            }
            let restored = function.config.restore(&saved.config);
            restored.map_err(|source| RestoreError::Config {
                device: device.clone(),
                source,
            })?;
            let restored = function.transport.device.restore(&saved.device);
            restored.map_err(|source| RestoreError::Device { device, source })?;

            common.queues = queues;
            common.accepted = saved.accepted;
            common.status = saved.status;
            common.device_feature_select = saved.device_feature_select;
            common.driver_feature_select = saved.driver_feature_select;
            common.queue_select = saved.queue_select;
            let vector = common.checked_vector(saved.config_vector);
            common.notifier.set(vector, saved.isr, saved.generation);
            // The number of vectors was checked.
            let _ = function.msix.restore(&saved.vectors, &function.config);
            function.transport.paused = true;
        }
        Ok(())
    }
}

fn check_count(
    device: &str,
    what: &'static str,
    saved: usize,
    here: usize,
) -> Result<(), RestoreError> {
    if saved == here {
        return Ok(());
    }
    let device = device.to_owned();
    Err(RestoreError::Count {
        device,
        what,
        saved,
        here,
    })
}
