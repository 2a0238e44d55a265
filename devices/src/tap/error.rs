//! Why a TAP interface could not be opened or set up.

use std::io;

use super::MAX_QUEUES;
use super::holders::Holders;

/// A TAP interface could not be opened or set up.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Zero queues, or too many.
    #[error("A TAP interface has 1 to {MAX_QUEUES} queues, not {queues}")]
    QueueCount {
        /// How many were asked for.
        queues: u16,
    },
    /// No name that a network interface can have.
    #[error(
        "'{name}' cannot be the name of a network interface: it has 1 to 15 bytes, \
         no '/', ':', '%' and no blanks"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// There is no driver.
    #[error(
        "There is no /dev/net/tun: load the driver (`modprobe tun`), and in a container pass the device in"
    )]
    NoDriver(#[source] io::Error),
    /// The driver cannot be opened.
    #[error("Could not open /dev/net/tun: the user needs read and write permission on it")]
    Open(#[source] io::Error),
    /// No such interface.
    #[error(
        "There is no TAP interface '{name}': create it with `ip tuntap add dev {name} mode tap{} vnet_hdr`",
        multi_queue(*queues)
    )]
    Missing {
        /// Its name.
        name: String,
        /// How many queues were asked for.
        queues: u16,
    },
    /// An interface of that name exists and was to be created.
    #[error("Could not create the TAP interface '{name}': an interface of that name exists")]
    Exists {
        /// Its name.
        name: String,
    },
    /// Another kind of interface.
    #[error(
        "The interface '{name}' is not a TAP interface (a macvtap interface is used by \
         passing its opened /dev/tapN as a descriptor)"
    )]
    NotTap {
        /// Its name.
        name: String,
    },
    /// Someone else uses it.
    #[error("The TAP interface '{name}' is busy: {holders}")]
    Busy {
        /// Its name.
        name: String,
        /// Who has it open.
        holders: Holders,
    },
    /// Packets on it have no virtio header.
    #[error(
        "The TAP interface '{name}' has no packet header for offloads (flag IFF_VNET_HDR): create it with \
         `ip tuntap add dev {name} mode tap{} vnet_hdr`",
        multi_queue(*queues)
    )]
    NoVnetHeader {
        /// Its name.
        name: String,
        /// How many queues were asked for.
        queues: u16,
    },
    /// Several queues were asked of a single-queue interface.
    #[error(
        "The TAP interface '{name}' has a single queue (flag IFF_MULTI_QUEUE is not set), and {queues} queue pairs \
         are asked for: create it with `ip tuntap add dev {name} mode tap multi_queue vnet_hdr`, \
         or ask for one queue pair"
    )]
    SingleQueue {
        /// Its name.
        name: String,
        /// How many queues were asked for.
        queues: u16,
    },
    /// Not the owner of the interface.
    #[error(
        "No permission to open the TAP interface '{name}': it needs CAP_NET_ADMIN, or an interface \
         that belongs to the user (`ip tuntap add … user NAME`)"
    )]
    NoPermission {
        /// Its name.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Not one descriptor for each queue pair.
    #[error("{queues} queue pairs need {queues} TAP descriptors, and {fds} were given")]
    FdCount {
        /// How many were given.
        fds: usize,
        /// How many queue pairs there are.
        queues: u16,
    },
    /// A descriptor of something else.
    #[error("Descriptor number {index} of the network device is not a queue of a TAP interface")]
    NotTapFd {
        /// Its place in the list, from 0.
        index: usize,
        /// The kernel's answer to `TUNGETIFF`.
        #[source]
        source: io::Error,
    },
    /// Descriptors of two interfaces.
    #[error(
        "Descriptor number {index} belongs to the TAP interface '{other}', and those before it to '{first}'"
    )]
    MixedFds {
        /// The interface of the first descriptor.
        first: String,
        /// Place of the one that differs, from 0.
        index: usize,
        /// The interface it belongs to.
        other: String,
    },
    /// The MTU cannot be set.
    #[error(
        "Could not set the MTU of the TAP interface '{name}' to {mtu}: `ip link set dev {name} mtu {mtu}` as root does it"
    )]
    Mtu {
        /// The interface.
        name: String,
        /// The MTU in bytes.
        mtu: u16,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A queue cannot be switched on or off.
    #[error("Could not {attempt} queue {index} of the TAP interface '{name}'")]
    Queue {
        /// The interface.
        name: String,
        /// The queue, from 0.
        index: usize,
        /// "attach" or "detach".
        attempt: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Another system call failed.
    #[error("Could not {attempt} on the TAP interface '{name}'")]
    Ioctl {
        /// The interface.
        name: String,
        /// What was attempted.
        attempt: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

fn multi_queue(queues: u16) -> &'static str {
    if queues > 1 { " multi_queue" } else { "" }
}
