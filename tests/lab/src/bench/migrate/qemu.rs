//! QEMU, driven by its monitor.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::case::{Case, Memory, Way};
use super::process::Process;
use super::qmp::Qmp;
use super::vmm::{DOWNTIME_MS, DriveError, PORT, Pair, Reported, SERIAL, Setup};

/// How long until its monitor is there: huge pages are made first.
const PATIENCE: Duration = Duration::from_secs(120);

/// As good as none, in bytes a second.
const BANDWIDTH: u64 = 1 << 40;

#[derive(Debug)]
struct Side {
    process: Process,
    monitor: Qmp,
}

/// Two QEMUs.
#[derive(Debug)]
pub struct QemuPair {
    setup: Setup,
    machine: String,
    source: Side,
    destination: Option<Side>,
    reported: Reported,
}

impl QemuPair {
    /// Starts the source.
    ///
    /// # Errors
    /// See [`DriveError`].
    pub fn start(setup: Setup, machine: &str, serial: OwnedFd) -> Result<Self, DriveError> {
        let source = side(&setup, machine, "source", serial)?;
        Ok(Self {
            setup,
            machine: machine.to_owned(),
            source,
            destination: None,
            reported: Reported::default(),
        })
    }
}

impl Side {
    fn run(&mut self, attempt: &'static str, arguments: Value) -> Result<Value, DriveError> {
        let result = self.monitor.execute(attempt, arguments);
        self.explain(attempt, result)
    }

    fn explain<T>(&self, attempt: &'static str, result: io::Result<T>) -> Result<T, DriveError> {
        result.map_err(|source| DriveError::Control {
            attempt,
            said: self.process.said(),
            source,
        })
    }

    /// The same on both sides, or they do not understand each other.
    fn prepare(&mut self, case: &Case) -> Result<(), DriveError> {
        let streams = match case.way {
            Way::Streams(streams) => streams,
            Way::Handover => 1,
        };
        let on = |name: &str| json!({"capability": name, "state": true});
        let mut capabilities = vec![on("return-path"), on("events")];
        let mut parameters = json!({"max-bandwidth": BANDWIDTH, "downtime-limit": DOWNTIME_MS});
        if streams > 1 {
            capabilities.push(on("multifd"));
            parameters["multifd-channels"] = streams.into();
        }
        let capabilities = json!({"capabilities": capabilities});
        self.run("migrate-set-capabilities", capabilities)?;
        self.run("migrate-set-parameters", parameters)?;
        Ok(())
    }
}

fn side(setup: &Setup, machine: &str, name: &str, serial: OwnedFd) -> Result<Side, DriveError> {
    let socket = setup.folder.join(format!("{name}.qmp"));
    let mut command = Command::new(&setup.program);
    arguments(&mut command, setup, machine);
    command
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", socket.display()));
    if name == "destination" {
        command.args(["-incoming", "defer"]);
    }
    let errors = setup.folder.join(format!("{name}.stderr"));
    let process = Process::start(command, serial, errors).map_err(|source| DriveError::Start {
        program: setup.program.clone(),
        source,
    })?;
    let monitor = Qmp::connect(&socket, PATIENCE).map_err(|source| DriveError::Control {
        attempt: "connecting to the monitor",
        said: process.said(),
        source,
    })?;
    let mut side = Side { process, monitor };
    side.prepare(&setup.case)?;
    Ok(side)
}

fn arguments(command: &mut Command, setup: &Setup, machine: &str) {
    let case = &setup.case;
    let memory = match case.memory {
        Memory::Private => None,
        Memory::Shared => Some(""),
        Memory::Huge => Some(",hugetlb=on,hugetlbsize=2M"),
        Memory::Prefaulted => Some(",hugetlb=on,hugetlbsize=2M,prealloc=on"),
    };
    let size = case.size_mib;
    let mut machine = machine.to_owned();
    if let Some(kind) = memory {
        command.arg("-object").arg(format!(
            "memory-backend-memfd,id=memory,size={size}M,share=on{kind}"
        ));
        machine.push_str(",memory-backend=memory");
    }
    // Without arch-capabilities=off QEMU 7.2 aborts on a KVM that does not know that register.
    command
        .args(["-M", &machine, "-accel", "kvm"])
        .args(["-cpu", "host,arch-capabilities=off"])
        .args(["-smp", &case.vcpus.to_string(), "-m", &format!("{size}M")])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-serial", &format!("file:{SERIAL}")])
        .args(["-append", &case.command_line(), "-kernel"])
        .arg(&setup.payload);
}

impl Pair for QemuPair {
    fn source(&self) -> &Process {
        &self.source.process
    }

    fn destination(&self) -> Option<&Process> {
        self.destination.as_ref().map(|side| &side.process)
    }

    fn receive(&mut self, serial: OwnedFd) -> Result<(), DriveError> {
        let mut side = side(&self.setup, &self.machine, "destination", serial)?;
        let uri = json!({"uri": format!("tcp:127.0.0.1:{PORT}")});
        side.run("migrate-incoming", uri)?;
        self.destination = Some(side);
        Ok(())
    }

    fn send(&mut self) -> Result<(), DriveError> {
        let uri = json!({"uri": format!("tcp:127.0.0.1:{PORT}")});
        self.source.run("migrate", uri).map(drop)
    }

    fn completed(&mut self, patience: Duration) -> Result<bool, DriveError> {
        let event = self.source.monitor.event(patience);
        let Some(event) = self
            .source
            .explain("waiting for the migration's end", event)?
        else {
            return Ok(false);
        };
        if event["event"] != "MIGRATION" {
            return Ok(false);
        }
        match event["data"]["status"].as_str() {
            Some("completed") => {}
            Some("failed" | "cancelled") => {
                let raw = self.source.run("query-migrate", json!({}))?;
                return Err(DriveError::Failed {
                    reason: raw.to_string(),
                });
            }
            _ => return Ok(false),
        }
        // The guest is gone, and QEMU keeps its memory until told to end.
        let account = self.source.monitor.account();
        let raw = self.source.explain("asking how the move went", account)?;
        let sent = self.source.monitor.send("quit", json!({}));
        self.source.explain("telling the source to end", sent)?;
        self.reported = Reported {
            total_ms: raw["total-time"].as_f64(),
            downtime_us: raw["downtime"].as_f64().map(|ms| ms * 1e3),
            sent_bytes: raw["ram"]["transferred"].as_u64(),
            raw,
        };
        Ok(true)
    }

    fn wait_for_end(&mut self, patience: Duration) {
        thread::sleep(patience);
    }

    fn reported(&mut self) -> Reported {
        self.reported.clone()
    }
}
