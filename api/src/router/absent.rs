//! What the peer can be asked for and godwit cannot.

use super::PREFIX;

const ABSENT: &[(&str, &str)] = &[
    ("vm.resize", "CPUs and memory are set before boot"),
    ("vm.resize-zone", "memory is set before boot"),
    (
        "vm.resize-disk",
        "disks keep the size they were opened with",
    ),
    ("vm.add-device", "VFIO devices are not there yet"),
    ("vm.add-disk", "disks are set before boot, in vm.create"),
    ("vm.add-fs", "there are no vhost-user file systems"),
    ("vm.add-pmem", "there is no persistent memory"),
    ("vm.add-vdpa", "there are no vDPA devices"),
    ("vm.add-vsock", "there is no socket device"),
    ("vm.add-user-device", "there are no vfio-user devices"),
    (
        "vm.add-generic-vhost-user",
        "the vhost-user devices are those of vm.add-net",
    ),
    (
        "vm.coredump",
        "vm.snapshot writes a paused machine to a folder",
    ),
    ("vm.nmi", "there is no interrupt button"),
];

/// Why the route is not there, for a route that the peer has.
pub(super) fn reason(path: &str) -> Option<&'static str> {
    let name = path.strip_prefix(PREFIX)?;
    ABSENT
        .iter()
        .find(|(absent, _)| *absent == name)
        .map(|(_, reason)| *reason)
}
