//! What the control queue changes (virtio 1.2, 5.1.6.5): commands, and the
//! state that they leave.
//!
//! [`Command::parse`] is pure; [`Control::execute`] applies a command to the
//! state and the tap. The state outlives a pause and moves with the guest; a
//! driver that starts anew finds the device as it was made.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_net as net;

use super::{bit, config, features};
use crate::tap::{Tap, TapError};
use crate::virtio::RingPosition;

/// Longest table of MAC addresses that is read.
const MAX_MACS: u32 = 4096;

/// What a driver set through the control queue, first version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetV1 {
    /// The MAC address in the configuration space.
    pub mac: [u8; 6],
    /// Queue pairs that the driver uses, from 1.
    pub active_pairs: u16,
    /// The offloads towards the guest that are on, as feature bits.
    pub guest_offloads: u64,
    /// Whether the driver is still to announce itself.
    pub announce: bool,
    /// The MTU in the configuration space, which the driver may have taken for
    /// its interface.
    pub mtu: u16,
}

/// A saved state does not fit the device.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// More pairs than there are.
    #[error("The saved state uses {active} queue pairs, and this device has {max}")]
    Pairs {
        /// Pairs in the saved state.
        active: u16,
        /// Pairs of the device.
        max: u16,
    },
    /// Not offloads.
    #[error("The saved state has the bits {bits:#x}, which are no offloads towards the guest")]
    Offloads {
        /// The bits that are none.
        bits: u64,
    },
    /// No address that a device can have.
    #[error("The saved MAC address {} is a multicast address, or zero", config::show_mac(*mac))]
    Mac {
        /// The address.
        mac: [u8; 6],
    },
    /// The driver was told another MTU.
    #[error(
        "The driver was told an MTU of {saved} bytes, and the tap here has {here}: set the same on both"
    )]
    Mtu {
        /// The MTU in the saved state.
        saved: u16,
        /// The device's.
        here: u16,
    },
}

/// A command that the device understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Any of the filters, which all let everything pass here.
    Filter,
    SetMac([u8; 6]),
    AnnounceAck,
    SetPairs(u16),
    SetGuestOffloads(u64),
}

/// A command that is answered with `VIRTIO_NET_ERR`.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("The command ends early")]
    Truncated(#[from] io::Error),
    #[error("The device has no command {command} in class {class}")]
    Unknown { class: u8, command: u8 },
    #[error("The feature of this command was not negotiated")]
    NotNegotiated,
    #[error("{pairs} queue pairs were asked for, and there are 1 to {max}")]
    Pairs { pairs: u16, max: u16 },
    #[error("The MAC address is a multicast address, or zero")]
    Mac,
    #[error("The offloads {asked:#x} are not among the negotiated {negotiated:#x}")]
    Offloads { asked: u64, negotiated: u64 },
    #[error(transparent)]
    Tap(#[from] TapError),
}

impl Command {
    /// Reads a command. Bytes after it are ignored: the framing is the
    /// driver's choice (virtio 1.2, 2.7.4).
    pub(super) fn parse(from: &mut impl Read) -> Result<Self, CommandError> {
        let [class, command] = array(from)?;
        match (u32::from(class), u32::from(command)) {
            // All modes of 5.1.6.5.1 that CTRL_RX stands for; the others would
            // need CTRL_RX_EXTRA.
            (net::VIRTIO_NET_CTRL_RX, 0..=net::VIRTIO_NET_CTRL_RX_ALLMULTI) => {
                array::<1>(from)?;
                Ok(Self::Filter)
            }
            (net::VIRTIO_NET_CTRL_MAC, net::VIRTIO_NET_CTRL_MAC_TABLE_SET) => {
                // Unicast, then multicast.
                if skip_mac_table(from)? {
                    skip_mac_table(from)?;
                }
                Ok(Self::Filter)
            }
            (net::VIRTIO_NET_CTRL_MAC, net::VIRTIO_NET_CTRL_MAC_ADDR_SET) => {
                Ok(Self::SetMac(array(from)?))
            }
            (net::VIRTIO_NET_CTRL_VLAN, 0..=net::VIRTIO_NET_CTRL_VLAN_DEL) => {
                array::<2>(from)?;
                Ok(Self::Filter)
            }
            (net::VIRTIO_NET_CTRL_ANNOUNCE, net::VIRTIO_NET_CTRL_ANNOUNCE_ACK) => {
                Ok(Self::AnnounceAck)
            }
            (net::VIRTIO_NET_CTRL_MQ, net::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) => {
                Ok(Self::SetPairs(u16::from_le_bytes(array(from)?)))
            }
            (net::VIRTIO_NET_CTRL_GUEST_OFFLOADS, net::VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET) => {
                Ok(Self::SetGuestOffloads(u64::from_le_bytes(array(from)?)))
            }
            _ => Err(CommandError::Unknown { class, command }),
        }
    }
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Passes over a table of MAC addresses. Its length is the guest's word:
/// nothing is allocated for it, and a table beyond [`MAX_MACS`] is taken unread,
/// as a device may that then lets everything pass (virtio 1.2, 5.1.6.5.2).
/// Answers whether it was read.
fn skip_mac_table(from: &mut impl Read) -> io::Result<bool> {
    let entries = u32::from_le_bytes(array(from)?);
    if entries > MAX_MACS {
        return Ok(false);
    }
    let bytes = u64::from(entries) * 6;
    if io::copy(&mut from.take(bytes), &mut io::sink())? < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(true)
}

/// The device's state behind the control queue.
#[derive(Debug)]
pub(super) struct Control {
    tap: Tap,
    /// As the device was made.
    mac: [u8; 6],
    max_pairs: u16,
    mtu: u16,
    /// As negotiated at the last start.
    features: u64,
    state: NetV1,
    ring: RingPosition,
}

impl Control {
    pub(super) fn new(tap: Tap, mac: [u8; 6], max_pairs: u16, mtu: u16) -> Self {
        Self {
            tap,
            mac,
            max_pairs,
            mtu,
            features: 0,
            state: initial(mac, mtu, 0),
            ring: RingPosition::default(),
        }
    }

    pub(super) fn tap(&self) -> &Tap {
        &self.tap
    }

    pub(super) fn state(&self) -> NetV1 {
        self.state
    }

    pub(super) fn restore(&mut self, state: NetV1) -> Result<(), StateError> {
        let (active, max) = (state.active_pairs, self.max_pairs);
        if active == 0 || active > max {
            return Err(StateError::Pairs { active, max });
        }
        let bits = state.guest_offloads & !features::guest_offloads(u64::MAX);
        if bits != 0 {
            return Err(StateError::Offloads { bits });
        }
        let mac = state.mac;
        if mac[0] & 1 == 1 || mac == [0; 6] {
            return Err(StateError::Mac { mac });
        }
        let (saved, here) = (state.mtu, self.mtu);
        if saved != here {
            return Err(StateError::Mtu { saved, here });
        }
        self.state = state;
        Ok(())
    }

    /// A driver starts, or goes on, with these features.
    pub(super) fn start(&mut self, features: u64, fresh: bool) -> Result<(), TapError> {
        self.features = features;
        if fresh {
            self.state = initial(self.mac, self.mtu, features);
        }
        self.state.guest_offloads &= features;
        if features & bit(net::VIRTIO_NET_F_MQ) == 0 {
            self.state.active_pairs = 1;
        }
        self.tap
            .set_offloads(features::tap_offloads(self.state.guest_offloads))?;
        self.tap
            .set_active_queues(usize::from(self.state.active_pairs))
    }

    pub(super) fn set_announce(&mut self) {
        self.state.announce = true;
    }

    /// Where the control queue stands.
    pub(super) fn ring_position(&self) -> RingPosition {
        self.ring
    }

    pub(super) fn set_ring_position(&mut self, position: RingPosition) {
        self.ring = position;
    }

    pub(super) fn config_space(&self) -> [u8; config::SIZE] {
        let announce = if self.state.announce {
            net::VIRTIO_NET_S_ANNOUNCE
        } else {
            0
        };
        config::Fields {
            mac: self.state.mac,
            // Both bits lie in the field.
            status: u16::try_from(net::VIRTIO_NET_S_LINK_UP | announce).unwrap_or_default(),
            max_pairs: self.max_pairs,
            mtu: self.mtu,
        }
        .bytes()
    }

    pub(super) fn execute(&mut self, command: Command) -> Result<(), CommandError> {
        let feature = match command {
            Command::Filter => net::VIRTIO_NET_F_CTRL_VQ,
            Command::SetMac(_) => net::VIRTIO_NET_F_CTRL_MAC_ADDR,
            Command::AnnounceAck => net::VIRTIO_NET_F_GUEST_ANNOUNCE,
            Command::SetPairs(_) => net::VIRTIO_NET_F_MQ,
            Command::SetGuestOffloads(_) => net::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
        };
        if self.features & bit(feature) == 0 {
            return Err(CommandError::NotNegotiated);
        }
        match command {
            Command::Filter => {}
            Command::SetMac(mac) => {
                if mac[0] & 1 == 1 || mac == [0; 6] {
                    return Err(CommandError::Mac);
                }
                self.state.mac = mac;
            }
            Command::AnnounceAck => self.state.announce = false,
            Command::SetPairs(pairs) => {
                let max = self.max_pairs;
                if pairs == 0 || pairs > max {
                    return Err(CommandError::Pairs { pairs, max });
                }
                self.tap.set_active_queues(usize::from(pairs))?;
                self.state.active_pairs = pairs;
            }
            Command::SetGuestOffloads(asked) => {
                let negotiated = features::guest_offloads(self.features);
                if asked & !negotiated != 0 {
                    return Err(CommandError::Offloads { asked, negotiated });
                }
                self.tap.set_offloads(features::tap_offloads(asked))?;
                self.state.guest_offloads = asked;
            }
        }
        Ok(())
    }
}

/// The state that a driver finds (virtio 1.2, 5.1.5: one pair, all negotiated
/// offloads on).
fn initial(mac: [u8; 6], mtu: u16, negotiated: u64) -> NetV1 {
    NetV1 {
        mac,
        active_pairs: 1,
        guest_offloads: features::guest_offloads(negotiated),
        announce: false,
        mtu,
    }
}
