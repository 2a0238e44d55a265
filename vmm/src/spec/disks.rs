//! Block devices.

use std::path::PathBuf;

use godwit_api::config::DiskConfig;
use nix::unistd::AccessFlags;

use super::error::Problems;
use super::files;
use super::net::ring_size;

/// The most queues of a disk.
const MAX_QUEUES: u32 = 16;

/// Bytes that the guest reads as the serial number (virtio 1.2, 5.2.6,
/// `VIRTIO_BLK_T_GET_ID`).
const SERIAL_BYTES: usize = 20;

/// A virtio-blk device on a raw image or a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// Its name, unique among devices.
    pub id: String,
    /// The image or block device.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// Whether the host's page cache is passed by (`O_DIRECT`).
    pub direct: bool,
    /// Queues, 1 to 16.
    pub num_queues: u16,
    /// Descriptors in each queue: a power of two, 32 to 1024.
    pub queue_size: u16,
    /// What the guest reads as the serial number: at most 20 bytes of
    /// printable ASCII.
    pub serial: Option<String>,
}

pub(super) fn build(
    configs: &[DiskConfig],
    ids: &[String],
    problems: &mut Problems,
) -> Vec<DiskSpec> {
    check_shared(configs, problems);
    configs
        .iter()
        .zip(ids)
        .enumerate()
        .filter_map(|(i, (config, id))| {
            let field = |name: &str| format!("disks[{i}].{name}");
            let path = path(&field("path"), config, problems);
            let num_queues = num_queues(&field("num_queues"), config.num_queues, problems);
            let queue_size = ring_size(&field("queue_size"), config.queue_size, problems);
            check_serial(&field("serial"), config.serial.as_deref(), problems);
            if !config.sparse {
                problems.unsupported(
                    field("sparse"),
                    "false is not supported: blocks that the guest discards are given back to the file system; \
                     leave it out",
                );
            }
            Some(DiskSpec {
                id: id.clone(),
                path: path?,
                readonly: config.readonly,
                direct: config.direct,
                num_queues: num_queues?,
                queue_size: queue_size?,
                serial: config.serial.clone(),
            })
        })
        .collect()
}

fn path(field: &str, config: &DiskConfig, problems: &mut Problems) -> Option<PathBuf> {
    let Some(path) = &config.path else {
        // A disk served elsewhere has been told.
        if !config.vhost_user {
            problems.invalid(field, "missing; name a raw image or a block device");
        }
        return None;
    };
    let needed = if config.readonly {
        AccessFlags::R_OK
    } else {
        AccessFlags::R_OK | AccessFlags::W_OK
    };
    files::blocks(field, path, needed, problems)
}

fn num_queues(field: &str, queues: u32, problems: &mut Problems) -> Option<u16> {
    if !(1..=MAX_QUEUES).contains(&queues) {
        problems.invalid(
            field,
            format!("{queues} is out of range; a disk has 1 to {MAX_QUEUES} queues"),
        );
        return None;
    }
    u16::try_from(queues).ok()
}

fn check_serial(field: &str, serial: Option<&str>, problems: &mut Problems) {
    let Some(serial) = serial else { return };
    if serial.len() > SERIAL_BYTES {
        problems.invalid(
            field,
            format!(
                "{} bytes are too long; the guest reads {SERIAL_BYTES}",
                serial.len()
            ),
        );
    }
    if let Some(bad) = serial.chars().find(|c| !matches!(c, ' '..='~')) {
        problems.invalid(
            field,
            format!("{bad:?} is not printable ASCII, which it must be"),
        );
    }
}

/// An image that one device writes is no other's.
fn check_shared(configs: &[DiskConfig], problems: &mut Problems) {
    for (i, config) in configs.iter().enumerate() {
        let clash = configs.iter().take(i).position(|other| {
            other.path.is_some()
                && other.path == config.path
                && !(other.readonly && config.readonly)
        });
        if let Some(other) = clash {
            problems.duplicate(
                format!("disks[{i}].path"),
                format!(
                    "disks[{other}] has the same image, and one of them writes; \
                     give each its own, or make both readonly"
                ),
            );
        }
    }
}
