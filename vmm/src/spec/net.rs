//! Network devices.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;

use godwit_api::config::{NetConfig, VhostMode};

use super::Origin;
use super::cpus::host_cpus;
use super::error::Problems;
use super::facts::HostFacts;
use super::host_cpu::CpuSet;
use super::mac::MacAddress;

/// Rings of a device: two for each of at most 16 queue pairs.
const MAX_RINGS: u32 = 32;

/// Sizes of a ring. The kernel's driver needs room for a packet in 17 pieces
/// and its header, and stops for good on less.
pub(super) const RING_SIZES: std::ops::RangeInclusive<u16> = 32..=1024;

/// MTUs: virtio asks for 1280 at least (virtio 1.2, 5.1.4.1); a tap takes no
/// more than 65535 less the Ethernet header.
const MTUS: std::ops::RangeInclusive<u16> = 1280..=65521;

/// Longest name of an interface: `IFNAMSIZ` less the ending zero.
const MAX_INTERFACE_BYTES: usize = 15;

/// A virtio-net device served by the kernel's vhost-net on a tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetSpec {
    /// Its name, unique among devices.
    pub id: String,
    /// The host's end.
    pub tap: TapSpec,
    /// The guest's address, unique among devices.
    pub mac: MacAddress,
    /// Pairs of a receive and a transmit queue, 1 to 16.
    pub queue_pairs: u16,
    /// Descriptors in each queue: a power of two, 32 to 1024.
    pub queue_size: u16,
    /// Largest packet in bytes, 1280 to 65521; `None`: the tap's own.
    pub mtu: Option<u16>,
    /// What is offered to the guest, as far as the tap can.
    pub offloads: Offloads,
    /// Where the kernel's vhost threads run; `None`: where our own do.
    pub worker_cpus: Option<CpuSet>,
}

/// The host's end of a network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapSpec {
    /// A tap by the name of its interface.
    Name(String),
    /// Open queues of a tap, one for each queue pair, above 2. Whoever made
    /// the config owns them.
    Fds(Vec<RawFd>),
}

/// Work on packets that is left to the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums.
    pub csum: bool,
    /// TCP segmentation; only with `csum`.
    pub tso: bool,
    /// UDP fragmentation; only with `csum`.
    pub ufo: bool,
}

pub(super) fn build(
    configs: &[NetConfig],
    ids: &[String],
    facts: &HostFacts,
    origin: Origin,
    problems: &mut Problems,
) -> Vec<NetSpec> {
    check_shared(configs, problems);
    configs
        .iter()
        .zip(ids)
        .enumerate()
        .filter_map(|(i, (config, id))| {
            let field = |name: &str| format!("net[{i}].{name}");
            let queue_pairs = queue_pairs(&field("num_queues"), config.num_queues, problems);
            let queue_size = ring_size(&field("queue_size"), config.queue_size, problems);
            let mac = mac(&field("mac"), config.mac.as_deref(), origin, problems);
            let tap = tap(i, config, queue_pairs, problems);
            let mtu = mtu(&field("mtu"), config.mtu, problems);
            let offloads = offloads(i, config, problems);
            let worker_cpus = match config.worker_cpus.as_slice() {
                [] => None,
                cpus => host_cpus(&field("worker_cpus"), cpus, facts, problems),
            };
            Some(NetSpec {
                id: id.clone(),
                tap: tap?,
                mac: mac?,
                queue_pairs: queue_pairs?,
                queue_size: queue_size?,
                mtu,
                offloads,
                worker_cpus,
            })
        })
        .collect()
}

fn queue_pairs(field: &str, rings: u32, problems: &mut Problems) -> Option<u16> {
    if !(2..=MAX_RINGS).contains(&rings) || !rings.is_multiple_of(2) {
        problems.invalid(
            field,
            format!(
                "{rings} is not possible; it counts rings, two for each queue pair, \
                 so it is even and 2 to {MAX_RINGS}"
            ),
        );
        return None;
    }
    u16::try_from(rings / 2).ok()
}

pub(super) fn ring_size(field: &str, size: u16, problems: &mut Problems) -> Option<u16> {
    if size.is_power_of_two() && RING_SIZES.contains(&size) {
        return Some(size);
    }
    let reason = if size.is_power_of_two() {
        "out of range"
    } else {
        "not a power of two"
    };
    problems.invalid(
        field,
        format!(
            "{size} is {reason}; a queue has 32, 64, 128, 256, 512 or {} descriptors",
            RING_SIZES.end()
        ),
    );
    None
}

fn mac(
    field: &str,
    text: Option<&str>,
    origin: Origin,
    problems: &mut Problems,
) -> Option<MacAddress> {
    match text {
        Some(text) => text
            .parse()
            .map_err(|error| problems.invalid(field, format!("{text:?} {error}")))
            .ok(),
        None if origin == Origin::Incoming => {
            problems.invalid(
                field,
                "missing; a machine that comes from elsewhere names its addresses",
            );
            None
        }
        None => MacAddress::random()
            .map_err(|error| {
                problems.host(
                    field,
                    format!("none given, and no random one can be made: /dev/urandom: {error}"),
                );
            })
            .ok(),
    }
}

fn mtu(field: &str, mtu: Option<u16>, problems: &mut Problems) -> Option<u16> {
    if let Some(bytes) = mtu
        && !MTUS.contains(&bytes)
    {
        problems.invalid(
            field,
            format!(
                "{bytes} bytes are out of range; {} to {} are possible",
                MTUS.start(),
                MTUS.end()
            ),
        );
    }
    mtu
}

fn offloads(i: usize, config: &NetConfig, problems: &mut Problems) -> Offloads {
    if !config.offload_csum {
        for (name, set) in [
            ("offload_tso", config.offload_tso),
            ("offload_ufo", config.offload_ufo),
        ] {
            if set {
                problems.invalid(
                    format!("net[{i}].{name}"),
                    "true, but offload_csum is false, and one needs the other; \
                     set this one to false too",
                );
            }
        }
    }
    Offloads {
        csum: config.offload_csum,
        tso: config.offload_tso,
        ufo: config.offload_ufo,
    }
}

fn tap(
    i: usize,
    config: &NetConfig,
    queue_pairs: Option<u16>,
    problems: &mut Problems,
) -> Option<TapSpec> {
    let field = |name: &str| format!("net[{i}].{name}");
    if config.vhost_user {
        problems.unsupported(
            field("vhost_user"),
            "vhost-user is not supported yet; give a tap, which vhost-net serves",
        );
        return None;
    }
    if config.vhost_socket.is_some() {
        problems.invalid(
            field("vhost_socket"),
            "set, but vhost_user is not true; leave it out",
        );
    }
    if config.vhost_mode == VhostMode::Server {
        problems.invalid(
            field("vhost_mode"),
            "\"Server\", but vhost_user is not true; leave it out",
        );
    }
    if !config.vhost_net {
        problems.unsupported(
            field("vhost_net"),
            "false, but a tap is served by the kernel's vhost-net only; leave it out",
        );
    }
    match (&config.tap, &config.fds) {
        (Some(name), None) => {
            for (key, value) in [("ip", &config.ip), ("mask", &config.mask)] {
                if let Some(value) = value {
                    problems.unsupported(
                        field(key),
                        format!(
                            "{value:?}: godwit sets no address on a tap; \
                             leave it out and use: ip addr add … dev {name}"
                        ),
                    );
                }
            }
            interface(&field("tap"), name, problems).map(TapSpec::Name)
        }
        (None, Some(fds)) => open_queues(&field("fds"), fds, queue_pairs, problems),
        (Some(_), Some(_)) => {
            problems.invalid(field("fds"), "given beside \"tap\"; give one of the two");
            None
        }
        (None, None) => {
            problems.invalid(
                field("tap"),
                "missing; name a tap interface, made so: \
                 ip tuntap add NAME mode tap vnet_hdr (with multi_queue for more than one pair)",
            );
            None
        }
    }
}

/// What the kernel takes as the name of an interface (`dev_valid_name`).
fn interface(field: &str, name: &str, problems: &mut Problems) -> Option<String> {
    let fits = (1..=MAX_INTERFACE_BYTES).contains(&name.len());
    let good = name
        .chars()
        .all(|c| matches!(c, '!'..='~') && !matches!(c, '/' | ':' | '%'));
    if fits && good && name != "." && name != ".." {
        return Some(name.to_owned());
    }
    problems.invalid(
        field,
        format!(
            "{name:?} cannot be an interface's name; it has 1 to {MAX_INTERFACE_BYTES} \
             printable characters and none of / : %"
        ),
    );
    None
}

fn open_queues(
    field: &str,
    fds: &[RawFd],
    queue_pairs: Option<u16>,
    problems: &mut Problems,
) -> Option<TapSpec> {
    let before = fds.len();
    let distinct: BTreeSet<_> = fds.iter().collect();
    if distinct.len() != before {
        problems.duplicate(field, format!("{fds:?} names a descriptor twice"));
        return None;
    }
    if let Some(low) = fds.iter().find(|fd| **fd <= 2) {
        problems.invalid(
            field,
            format!("{low} cannot be a tap; 0 to 2 are standard input, output and error"),
        );
        return None;
    }
    let pairs = queue_pairs?;
    if before != usize::from(pairs) {
        problems.invalid(
            field,
            format!(
                "{before} given, but num_queues {} are {pairs} queue pairs; \
                 give one descriptor for each pair",
                u32::from(pairs) * 2
            ),
        );
        return None;
    }
    Some(TapSpec::Fds(fds.to_vec()))
}

/// What two devices cannot both have.
fn check_shared(configs: &[NetConfig], problems: &mut Problems) {
    let mut macs: BTreeMap<MacAddress, usize> = BTreeMap::new();
    let mut taps: BTreeMap<&str, usize> = BTreeMap::new();
    let mut fds: BTreeMap<RawFd, usize> = BTreeMap::new();
    for (i, config) in configs.iter().enumerate() {
        if let Some(mac) = config.mac.as_ref().and_then(|mac| mac.parse().ok())
            && let Some(other) = macs.insert(mac, i)
        {
            problems.duplicate(
                format!("net[{i}].mac"),
                format!("net[{other}] has {mac} too; addresses must differ"),
            );
        }
        if let Some(tap) = &config.tap
            && let Some(other) = taps.insert(tap, i)
        {
            problems.duplicate(
                format!("net[{i}].tap"),
                format!("net[{other}] is on {tap:?} too; each device needs a tap of its own"),
            );
        }
        for fd in config.fds.iter().flatten() {
            if let Some(other) = fds.insert(*fd, i)
                && other != i
            {
                problems.duplicate(
                    format!("net[{i}].fds"),
                    format!("net[{other}] has {fd} too; each queue pair needs its own"),
                );
            }
        }
    }
}
