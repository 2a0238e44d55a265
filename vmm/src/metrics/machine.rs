//! The machine: its state, its memory, its devices.

use std::time::Duration;

use godwit_api::metrics::{Family, Kind, Page};
use godwit_devices::serial::SerialCounters;

use crate::control::phase::Phase;
use crate::kvm::stats::KvmReadings;

/// A machine that was built.
#[derive(Clone, Debug, Default)]
pub struct MachineFacts {
    /// Since it was built: a reset builds it anew.
    pub uptime: Duration,
    /// How many it has.
    pub vcpus: usize,
    /// How often each came out of KVM; empty when they are gone.
    pub exits: Vec<u64>,
    /// Its memory.
    pub zones: Vec<ZoneFacts>,
    /// Its serial port, when it has one.
    pub serial: Option<SerialCounters>,
    /// Its devices.
    pub devices: Vec<DeviceFacts>,
    /// What KVM counts.
    pub kvm: KvmReadings,
}

/// A piece of guest memory.
#[derive(Clone, Debug)]
pub struct ZoneFacts {
    /// Its name.
    pub id: String,
    /// The size of its pages.
    pub page_bytes: u64,
    /// Its size.
    pub size_bytes: u64,
    /// What it has of the host.
    pub allocated_bytes: u64,
}

/// A device, and what it counts.
#[derive(Clone, Debug)]
pub struct DeviceFacts {
    /// Its id.
    pub id: String,
    /// Each by its name.
    pub counters: Vec<(&'static str, u64)>,
}

impl DeviceFacts {
    pub(super) fn of((id, counters): (String, Vec<(&'static str, u64)>)) -> Self {
        Self { id, counters }
    }
}

const STATE: Family = Family::gauge(
    "godwit_vm_state",
    "1 for the state that the VM is in, 0 for the others.",
    &["state"],
);
const UPTIME: Family = Family::gauge(
    "godwit_vm_uptime_seconds",
    "Time since the VM was built; a reset builds it anew.",
    &[],
);
const VCPUS: Family = Family::gauge("godwit_vm_vcpus", "vCPUs of the VM.", &[]);
const EXITS: Family = Family::counter(
    "godwit_vcpu_exits_to_user_space_total",
    "Times the vCPU came out of KVM to godwit; what KVM serves itself is not among them.",
    &["vcpu"],
);
const MEMORY: Family = Family::gauge(
    "godwit_guest_memory_size_bytes",
    "Guest memory as configured, by zone and size of the host's pages.",
    &["zone", "page_size"],
);
const ALLOCATED: Family = Family::gauge(
    "godwit_guest_memory_allocated_bytes",
    "Guest memory that has pages of the host, resident or swapped out.",
    &["zone", "page_size"],
);
const SERIAL_SENT: Family = Family::counter(
    "godwit_serial_transmit_bytes_total",
    "Bytes that the guest wrote to its serial port and that went out.",
    &[],
);
const SERIAL_RECEIVED: Family = Family::counter(
    "godwit_serial_receive_bytes_total",
    "Bytes that the guest was given by its serial port.",
    &[],
);
const SERIAL_DROPPED: Family = Family::counter(
    "godwit_serial_transmit_dropped_bytes_total",
    "Bytes that the guest wrote to its serial port and nobody was there to take.",
    &[],
);

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Empty => "empty",
        Phase::Created => "created",
        Phase::Booting => "booting",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Pausing => "pausing",
        Phase::Resuming => "resuming",
        Phase::Shutdown => "shutdown",
        Phase::Rebooting => "rebooting",
        Phase::Snapshotting => "snapshotting",
        Phase::Restoring => "restoring",
        Phase::Sending => "sending",
        Phase::Receiving => "receiving",
        Phase::Unsettled => "unsettled",
        Phase::Lost => "lost",
        Phase::Stopping => "stopping",
    }
}

pub(super) fn show_state(page: &mut Page, phase: Phase) {
    for state in Phase::ALL {
        page.set(&STATE, &[name(state)], u64::from(state == phase));
    }
}

pub(super) fn show(page: &mut Page, machine: &MachineFacts) {
    page.set(&UPTIME, &[], machine.uptime.as_secs_f64());
    page.set(&VCPUS, &[], machine.vcpus as u64);
    for (vcpu, &exits) in machine.exits.iter().enumerate() {
        page.set(&EXITS, &[&vcpu.to_string()], exits);
    }
    for zone in &machine.zones {
        let labels = [zone.id.as_str(), page_size(zone.page_bytes)];
        page.set(&MEMORY, &labels, zone.size_bytes);
        page.set(&ALLOCATED, &labels, zone.allocated_bytes);
    }
    if let Some(serial) = &machine.serial {
        page.set(&SERIAL_SENT, &[], serial.sent);
        page.set(&SERIAL_RECEIVED, &[], serial.received);
        page.set(&SERIAL_DROPPED, &[], serial.dropped);
    }
    for device in &machine.devices {
        for &(counter, value) in &device.counters {
            show_counter(page, &device.id, counter, value);
        }
    }
}

/// As the config has it.
fn page_size(bytes: u64) -> &'static str {
    match bytes {
        0x1000 => "4K",
        0x20_0000 => "2M",
        0x4000_0000 => "1G",
        _ => "other",
    }
}

/// Devices name their counters as `vm.counters` shows them: `_us` are times,
/// which are no counters.
fn show_counter(page: &mut Page, device: &str, counter: &str, value: u64) {
    let (kind, name) = match counter.strip_suffix("_us") {
        Some(time) => (Kind::Gauge, format!("godwit_device_{time}_seconds")),
        None => (Kind::Counter, format!("godwit_device_{counter}_total")),
    };
    let help = format!("What the device counts as {counter} since it was opened.");
    let Some(family) = Family::learnt(kind, name, help, &["device"]) else {
        return;
    };
    match kind {
        Kind::Gauge => page.set(&family, &[device], value as f64 / 1e6),
        _ => page.set(&family, &[device], value),
    }
}
