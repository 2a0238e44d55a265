//! Answers as people and scripts read them.

use godwit_api::client::Answer;
use godwit_api::config::VmConfig;
use godwit_api::response::{Counters, DeviceAdded, Info, MigrationStatus, Ping, Progress};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Failure;
use super::metrics;
use super::table::{Table, bytes, micros, plain};
use super::verb::Verb;

/// The JSON as it came; figures become JSON.
pub(super) fn as_json(verb: &Verb, answer: &Answer) -> Result<String, Failure> {
    if answer.body.is_empty() {
        return Ok(String::new());
    }
    if let Verb::Metrics = verb {
        let samples: Vec<_> = metrics::samples(&text(answer))
            .map(|s| json!({"name": s.name, "labels": s.labels, "value": s.value}))
            .collect();
        return Ok(format!("{}\n", json!(samples)));
    }
    // Read once, so that nothing but JSON goes on.
    let value: serde_json::Value = read(verb, answer)?;
    Ok(format!("{value}\n"))
}

/// Tables; nothing when there is nothing to tell.
pub(super) fn as_text(verb: &Verb, answer: &Answer) -> Result<String, Failure> {
    if answer.body.is_empty() {
        return Ok(String::new());
    }
    Ok(match verb {
        Verb::Ping => ping(&read(verb, answer)?),
        Verb::Info => info(&read(verb, answer)?),
        Verb::Counters => counters(&read(verb, answer)?),
        Verb::AddNet(_) => {
            let added: DeviceAdded = read(verb, answer)?;
            format!("{} at {}\n", plain(&added.id), plain(&added.bdf))
        }
        Verb::Progress => progress(&read(verb, answer)?),
        _ => text(answer),
    })
}

fn read<T: DeserializeOwned>(verb: &Verb, answer: &Answer) -> Result<T, Failure> {
    serde_json::from_slice(&answer.body).map_err(|source| Failure::Answer {
        route: verb.route(),
        source,
    })
}

/// Text as it is, but for what a terminal would act on.
fn text(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let lines = text
        .lines()
        .map(|line| plain(&line.replace('\t', " ")) + "\n");
    lines.collect()
}

fn ping(ping: &Ping) -> String {
    let mut text = format!(
        "godwit {}, process {}\n",
        plain(&ping.build_version),
        ping.pid
    );
    if !ping.features.is_empty() {
        text.push_str(&format!("features: {}\n", plain(&ping.features.join(", "))));
    }
    text
}

fn info(info: &Info) -> String {
    let config = &info.config;
    let mut table = Table::default();
    table.row(["state", &format!("{:?}", info.state)]);
    table.row(["vCPUs", &vcpus(config)]);
    table.row(["memory", &memory(config, info.memory_actual_size)]);
    let payload = &config.payload;
    let shown =
        |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    for (name, value) in [
        ("kernel", shown(&payload.kernel)),
        ("initramfs", shown(&payload.initramfs)),
        ("command line", payload.cmdline.clone()),
        ("serial", Some(place(&config.serial))),
    ] {
        if let Some(value) = value {
            table.row([name, &value]);
        }
    }
    let bdf = |id: &Option<String>| {
        let node = info.device_tree.as_ref()?.get(id.as_ref()?)?;
        node.pci_bdf.clone()
    };
    let mut devices = Table::default();
    for net in &config.net {
        let behind = match (&net.tap, &net.vhost_socket) {
            (Some(tap), _) => format!("tap {tap}"),
            (None, Some(socket)) => format!("vhost-user {socket}"),
            (None, None) => "tap by descriptor".to_owned(),
        };
        let pairs = format!("{} queue pair(s)", net.num_queues / 2);
        devices.row([
            "net",
            net.id.as_deref().unwrap_or("-"),
            bdf(&net.id).as_deref().unwrap_or("-"),
            &behind,
            net.mac.as_deref().unwrap_or("-"),
            &pairs,
        ]);
    }
    for disk in &config.disks {
        let path = shown(&disk.path).unwrap_or_default();
        let mode = if disk.readonly { "read only" } else { "" };
        devices.row([
            "disk",
            disk.id.as_deref().unwrap_or("-"),
            bdf(&disk.id).as_deref().unwrap_or("-"),
            &path,
            mode,
            "",
        ]);
    }
    table.text() + &devices.text()
}

fn vcpus(config: &VmConfig) -> String {
    let mut text = config.cpus.boot_vcpus.to_string();
    let mut places = config.cpus.affinity.clone();
    places.sort_by_key(|place| place.vcpu);
    for place in places {
        let cpus: Vec<_> = place.host_cpus.iter().map(u32::to_string).collect();
        text.push_str(&format!(", {} on {}", place.vcpu, cpus.join("+")));
    }
    text
}

fn memory(config: &VmConfig, size: u64) -> String {
    let mut text = bytes(size);
    if config.memory.hugepages {
        let page = config.memory.hugepage_size.unwrap_or(2 << 20);
        text.push_str(&format!(" on pages of {}", bytes(page)));
    }
    for zone in &config.memory.zones {
        text.push_str(&format!(", {}: {}", zone.id, bytes(zone.size)));
        if let Some(node) = zone.host_numa_node {
            text.push_str(&format!(" on node {node}"));
        }
    }
    text
}

fn place(device: &godwit_api::config::CharacterConfig) -> String {
    let path = device.file.as_ref().or(device.socket.as_ref());
    match path {
        Some(path) => format!("{:?} {}", device.mode, path.display()),
        None => format!("{:?}", device.mode),
    }
}

fn counters(counters: &Counters) -> String {
    let mut table = Table::default();
    for (device, values) in &counters.0 {
        for (name, value) in values {
            table.row([device, name, &value.to_string()]);
        }
    }
    table.text()
}

/// Figures of a migration, one a line.
pub(super) fn progress(progress: &Progress) -> String {
    let mut table = Table::default();
    let status = match progress.status {
        MigrationStatus::Ongoing => "goes on",
        MigrationStatus::Finished => "finished",
        MigrationStatus::Failed => "failed",
        MigrationStatus::Cancelled => "cancelled",
    };
    let phase = format!("{status}, in phase {}", progress.phase);
    table.row(["migration", &phase]);
    table.row(["rounds", &progress.rounds.to_string()]);
    for (name, count) in [
        ("present", progress.present_bytes),
        ("zero", progress.zero_bytes),
        ("sent", progress.sent_bytes),
        ("left", progress.remaining_bytes),
    ] {
        table.row([name, &bytes(count)]);
    }
    let dirty = format!("{} pages/s", progress.dirty_pages_per_second);
    table.row(["dirty rate", &dirty]);
    for (name, us) in [
        ("downtime predicted", progress.predicted_downtime_us),
        ("downtime", progress.downtime_us),
        ("total", Some(progress.total_us)),
    ] {
        if let Some(us) = us {
            table.row([name, &micros(us)]);
        }
    }
    let phases = progress.phases.iter();
    let phases: Vec<_> = phases
        .map(|phase| format!("{} {}", phase.phase, micros(phase.us)))
        .collect();
    if !phases.is_empty() {
        table.row(["phases", &phases.join(", ")]);
    }
    for reason in &progress.error.0 {
        table.row(["because", reason]);
    }
    table.text()
}
