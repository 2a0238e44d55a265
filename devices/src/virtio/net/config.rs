//! The device configuration space: `struct virtio_net_config` (virtio 1.2,
//! 5.1.4), up to the last field that a feature of ours makes valid.

use std::fmt;

/// Bytes of the configuration space: mac, status, max_virtqueue_pairs, mtu.
pub(super) const SIZE: usize = 12;

/// The fields, before they are bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    pub mac: [u8; 6],
    pub status: u16,
    pub max_pairs: u16,
    pub mtu: u16,
}

impl Fields {
    pub(super) fn bytes(self) -> [u8; SIZE] {
        let [m0, m1, m2, m3, m4, m5] = self.mac;
        let [s0, s1] = self.status.to_le_bytes();
        let [p0, p1] = self.max_pairs.to_le_bytes();
        let [t0, t1] = self.mtu.to_le_bytes();
        [m0, m1, m2, m3, m4, m5, s0, s1, p0, p1, t0, t1]
    }
}

/// Fills `data` from `space` at `offset`; beyond its end, zeros.
pub(super) fn read(space: &[u8], offset: u64, data: &mut [u8]) {
    let skip = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut rest = space.iter().skip(skip);
    for byte in data {
        *byte = rest.next().copied().unwrap_or(0);
    }
}

/// A MAC address in the usual notation.
pub(super) fn show_mac(mac: [u8; 6]) -> impl fmt::Display {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
