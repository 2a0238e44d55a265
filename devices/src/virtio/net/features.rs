//! Which features the device offers (virtio 1.2, 5.1.3).

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net as net;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::{NetDeviceConfig, bit};

/// Work on packets that guest and host may leave to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums, both ways.
    pub checksum: bool,
    /// TCP segmentation, both ways; needs `checksum`.
    pub tcp_segmentation: bool,
    /// UDP fragmentation, both ways; needs `checksum`.
    pub udp_fragmentation: bool,
}

impl Default for Offloads {
    fn default() -> Self {
        Self {
            checksum: true,
            tcp_segmentation: true,
            udp_fragmentation: true,
        }
    }
}

/// The offloads towards the guest, each with the tap's name for it.
const GUEST_OFFLOADS: [(u32, u32); 5] = [
    (net::VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
    (net::VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
    (net::VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
    (net::VIRTIO_NET_F_GUEST_ECN, libc::TUN_F_TSO_ECN),
    (net::VIRTIO_NET_F_GUEST_UFO, libc::TUN_F_UFO),
];

/// Features of the guest's side that `CTRL_GUEST_OFFLOADS` may switch: the bits
/// have the features' numbers (virtio 1.2, 5.1.6.5.6.1).
pub(super) fn guest_offloads(features: u64) -> u64 {
    let mask = GUEST_OFFLOADS
        .iter()
        .fold(0, |all, (feature, _)| all | bit(*feature));
    features & mask
}

/// The tap's bits for negotiated offloads.
pub(super) fn tap_offloads(features: u64) -> u32 {
    // The tap refuses all others without checksums (linux/drivers/net/tun.c).
    if features & bit(net::VIRTIO_NET_F_GUEST_CSUM) == 0 {
        return 0;
    }
    let mut tap = GUEST_OFFLOADS
        .iter()
        .filter(|(feature, _)| features & bit(*feature) != 0)
        .fold(0, |all, (_, tap)| all | tap);
    // ECN is a property of TCP segments, which the tap does not take alone.
    if tap & (libc::TUN_F_TSO4 | libc::TUN_F_TSO6) == 0 {
        tap &= !libc::TUN_F_TSO_ECN;
    }
    tap
}

/// The features that concern rings, and so vhost. The bits of offloads are the
/// tap's affair; bit 27 must never be set: for vhost it means that the tap has
/// no packet header (`VHOST_NET_F_VIRTIO_NET_HDR`).
pub(super) const fn of_vhost() -> u64 {
    bit(VIRTIO_F_VERSION_1)
        | bit(net::VIRTIO_NET_F_MRG_RXBUF)
        | bit(VIRTIO_RING_F_EVENT_IDX)
        | bit(VIRTIO_RING_F_INDIRECT_DESC)
}

/// The features to offer, where vhost offers `backend` and `tap_knows` tells
/// whether the tap can do some offloads.
pub(super) fn offered(
    config: &NetDeviceConfig,
    backend: u64,
    tap_knows: impl Fn(u32) -> bool,
) -> u64 {
    let mut features = backend & of_vhost() & !bit(VIRTIO_F_VERSION_1);
    for feature in [
        net::VIRTIO_NET_F_MAC,
        net::VIRTIO_NET_F_MTU,
        net::VIRTIO_NET_F_STATUS,
        net::VIRTIO_NET_F_CTRL_VQ,
        // A tap does not filter. All filters of 5.1.6.5 are best effort, and
        // drivers want to be able to ask for everything.
        net::VIRTIO_NET_F_CTRL_RX,
        net::VIRTIO_NET_F_CTRL_VLAN,
        net::VIRTIO_NET_F_CTRL_MAC_ADDR,
        net::VIRTIO_NET_F_GUEST_ANNOUNCE,
    ] {
        features |= bit(feature);
    }
    if config.queue_pairs > 1 {
        features |= bit(net::VIRTIO_NET_F_MQ);
    }
    features | offloads(config.offloads, tap_knows)
}

/// Dependencies: virtio 1.2, 5.1.3.1.
fn offloads(wanted: Offloads, tap_knows: impl Fn(u32) -> bool) -> u64 {
    if !wanted.checksum || !tap_knows(libc::TUN_F_CSUM) {
        return 0;
    }
    let mut features = bit(net::VIRTIO_NET_F_CSUM)
        | bit(net::VIRTIO_NET_F_GUEST_CSUM)
        | bit(net::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
    let segmentation = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    if wanted.tcp_segmentation && tap_knows(segmentation) {
        features |= bit(net::VIRTIO_NET_F_HOST_TSO4)
            | bit(net::VIRTIO_NET_F_HOST_TSO6)
            | bit(net::VIRTIO_NET_F_HOST_ECN)
            | bit(net::VIRTIO_NET_F_GUEST_TSO4)
            | bit(net::VIRTIO_NET_F_GUEST_TSO6)
            | bit(net::VIRTIO_NET_F_GUEST_ECN);
    }
    if wanted.udp_fragmentation && tap_knows(libc::TUN_F_CSUM | libc::TUN_F_UFO) {
        features |= bit(net::VIRTIO_NET_F_HOST_UFO) | bit(net::VIRTIO_NET_F_GUEST_UFO);
    }
    features
}
