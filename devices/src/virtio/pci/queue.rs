//! The registers of one queue, and what makes a ring acceptable.

use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::GuestRam;
use crate::virtio::RingPosition;

/// No vector: the queue does not interrupt (virtio 1.2, 4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

/// One queue as the driver set it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    pub max_size: u16,
    pub size: u16,
    pub vector: u16,
    pub enabled: bool,
    pub desc: u64,
    pub driver: u64,
    pub device: u64,
    pub position: RingPosition,
}

/// Why a queue cannot be enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// Not a power of two, or too large.
    #[error("queue size {size} is not a power of two up to {max}")]
    Size {
        /// What the driver wrote.
        size: u16,
        /// The largest size.
        max: u16,
    },
    /// Not aligned as virtio 1.2, 2.7 asks.
    #[error("{area} area at {address:#x} is not aligned to {alignment} bytes")]
    Alignment {
        /// Which of the three parts.
        area: &'static str,
        /// Where the driver put it.
        address: u64,
        /// What it has to be aligned to.
        alignment: u64,
    },
    /// Not whole within one range of guest RAM.
    #[error("{area} area at {address:#x} with {size} bytes is not within guest RAM")]
    NotRam {
        /// Which of the three parts.
        area: &'static str,
        /// Where the driver put it.
        address: u64,
        /// Its size.
        size: u64,
    },
}

impl Queue {
    /// A queue after a reset.
    pub const fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            vector: NO_VECTOR,
            enabled: false,
            desc: 0,
            driver: 0,
            device: 0,
            position: RingPosition {
                next_avail: 0,
                next_used: 0,
            },
        }
    }

    /// Checks size, alignment and place (virtio 1.2, 2.7 and 4.1.4.3.2).
    pub fn check(&self, memory: &GuestRam) -> Result<(), QueueError> {
        if !self.size.is_power_of_two() || self.size > self.max_size {
            return Err(QueueError::Size {
                size: self.size,
                max: self.max_size,
            });
        }
        let size = u64::from(self.size);
        // Bytes with the two event fields, and alignment: the table in 2.7.
        let areas = [
            ("descriptor", self.desc, 16 * size, 16),
            ("driver", self.driver, 6 + 2 * size, 2),
            ("device", self.device, 6 + 8 * size, 4),
        ];
        for (area, address, size, alignment) in areas {
            if !address.is_multiple_of(alignment) {
                return Err(QueueError::Alignment {
                    area,
                    address,
                    alignment,
                });
            }
            if !is_ram(memory, address, size) {
                return Err(QueueError::NotRam {
                    area,
                    address,
                    size,
                });
            }
        }
        Ok(())
    }
}

/// Whether the range lies within one region of RAM, so that it is contiguous in
/// our address space too: vhost gets host addresses.
fn is_ram(memory: &GuestRam, address: u64, size: u64) -> bool {
    let last = address.checked_add(size - 1);
    let region = memory.find_region(GuestAddress(address));
    region
        .zip(last)
        .is_some_and(|(region, last)| last <= region.last_addr().raw_value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::guest_ram;

    #[test]
    fn a_ring_may_end_where_ram_ends_and_not_a_byte_later() {
        let ram = guest_ram(&[(0x1000, 0x1_0000), (0x2_0000, 0x1000)]);
        let end = 0x1_1000;
        let at = |desc, driver, device| Queue {
            size: 16,
            desc,
            driver,
            device,
            ..Queue::new(256)
        };
        // 256, 38 and 134 bytes.
        let last = at(end - 256, end - 38, end - 136);
        assert_eq!(last.check(&ram), Ok(()));
        let beyond = [
            at(end - 240, 0x1000, 0x1000),
            at(0x1000, end - 36, 0x1000),
            at(0x1000, 0x1000, end - 132),
            at(0xff0, 0x1000, 0x1000),
            at(0x1_8000, 0x1000, 0x1000),
            at(u64::MAX - 15, 0x1000, 0x1000),
        ];
        for queue in beyond {
            let error = queue.check(&ram).unwrap_err();
            assert!(matches!(error, QueueError::NotRam { .. }), "{error}");
        }
    }
}
