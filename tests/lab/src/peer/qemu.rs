//! QEMU's q35 machine with KVM, vhost-net taps and huge pages, driven by its monitor.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::{
    Account, Console, Instance, MOVE_LIMIT, Machine, Moved, PATIENCE, PeerError, Sockets, go_on,
    io, threads, wait_for_socket,
};
use crate::bench::qmp::Qmp;

/// As good as no limit, in bytes a second.
const BANDWIDTH: u64 = 1 << 40;

/// How often the source is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Side {
    monitor: Qmp,
    console: Console,
}

/// One or two instances.
#[derive(Debug)]
pub(super) struct Qemu {
    machine: Machine,
    source: Side,
    destination: Option<Side>,
    moved: bool,
    // Last: the processes are gone when it is removed.
    sockets: Sockets,
}

/// What the same moment is on both clocks: events of the monitor have the wall clock's time.
#[derive(Debug, Clone, Copy)]
struct Clocks(Instant, SystemTime);

impl Clocks {
    fn instant(self, event: &Value) -> Option<Instant> {
        let stamp = &event["timestamp"];
        let since = Duration::from_secs(stamp["seconds"].as_u64()?)
            + Duration::from_micros(stamp["microseconds"].as_u64()?);
        let wall = SystemTime::UNIX_EPOCH + since;
        match wall.duration_since(self.1) {
            Ok(later) => Some(self.0 + later),
            Err(earlier) => self.0.checked_sub(earlier.duration()),
        }
    }
}

impl Qemu {
    pub(super) fn boot(machine: &Machine, tap: &str) -> Result<Self, PeerError> {
        let sockets = Sockets::new()?;
        let socket = sockets.path("source.qmp");
        let source = Side::start("the source", command(machine, tap)?, machine, socket)?;
        Ok(Self {
            machine: machine.clone(),
            source,
            destination: None,
            moved: false,
            sockets,
        })
    }

    fn uri(&self) -> Value {
        let socket = self.sockets.path("migration.sock");
        json!({"uri": format!("unix:{}", socket.display())})
    }
}

impl Side {
    fn start(
        name: &str,
        mut command: Command,
        machine: &Machine,
        socket: PathBuf,
    ) -> Result<Self, PeerError> {
        command
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()));
        let mut console = Console::start(name, command)?;
        wait_for_socket(&mut console, &socket)?;
        let monitor = Qmp::connect(&socket, PATIENCE).map_err(PeerError::Monitor)?;
        let mut side = Self { monitor, console };
        side.place(machine)?;
        Ok(side)
    }

    fn run(&mut self, command: &str, arguments: Value) -> Result<Value, PeerError> {
        let result = self.monitor.execute(command, arguments);
        result.map_err(PeerError::Monitor)
    }

    /// Its threads go where the config has godwit's, and are scheduled like them.
    fn place(&mut self, machine: &Machine) -> Result<(), PeerError> {
        let process = self.console.id();
        if let Some(cpus) = machine.emulator_cpus() {
            for thread in threads::of(process) {
                threads::pin(thread, cpus).map_err(io("pin QEMU's threads"))?;
            }
        }
        if let Some(cpus) = machine.worker_cpus() {
            for thread in threads::vhost_workers(process) {
                threads::pin(thread, cpus).map_err(io("pin QEMU's vhost workers"))?;
            }
        }
        let vcpus = self.run("query-cpus-fast", json!({}))?;
        for vcpu in vcpus.as_array().into_iter().flatten() {
            let thread = vcpu["thread-id"].as_i64();
            let Some(thread) = thread.and_then(|thread| i32::try_from(thread).ok()) else {
                continue;
            };
            let index = vcpu["cpu-index"].as_u64();
            let affinity = machine.affinity().iter().find(|of| Some(of.vcpu) == index);
            if let Some(affinity) = affinity {
                threads::pin(thread, &affinity.host_cpus).map_err(io("pin QEMU's vCPUs"))?;
            }
            if let Some(sched) = machine.sched().filter(|sched| sched.policy == "fifo") {
                let scheduled = threads::fifo(thread, sched.priority);
                scheduled.map_err(io("put QEMU's vCPUs under SCHED_FIFO"))?;
            }
        }
        Ok(())
    }

    /// The same on both sides, or they do not understand each other.
    fn agree(&mut self, downtime_ms: Option<u64>) -> Result<(), PeerError> {
        let on = |name: &str| json!({"capability": name, "state": true});
        let capabilities = json!({"capabilities": [on("return-path"), on("events")]});
        self.run("migrate-set-capabilities", capabilities)?;
        let mut parameters = json!({"max-bandwidth": BANDWIDTH});
        if let Some(limit) = downtime_ms {
            parameters["downtime-limit"] = limit.into();
        }
        self.run("migrate-set-parameters", parameters)?;
        Ok(())
    }
}

impl Instance for Qemu {
    fn console(&mut self) -> &mut Console {
        match &mut self.destination {
            Some(destination) if self.moved => &mut destination.console,
            _ => &mut self.source.console,
        }
    }

    fn prepare(&mut self, tap: &str) -> Result<(), PeerError> {
        let mut command = command(&self.machine, tap)?;
        command.args(["-incoming", "defer"]);
        let socket = self.sockets.path("destination.qmp");
        let mut side = Side::start("the destination", command, &self.machine, socket)?;
        side.agree(None)?;
        side.run("migrate-incoming", self.uri())?;
        self.destination = Some(side);
        Ok(())
    }

    fn migrate(
        &mut self,
        downtime_ms: Option<u64>,
        seen: &mut dyn FnMut(String),
    ) -> Result<Moved, PeerError> {
        let uri = self.uri();
        let Some(destination) = &mut self.destination else {
            return Err(PeerError::Stayed("there is no destination".to_owned()));
        };
        self.source.agree(downtime_ms)?;
        let asked = Instant::now();
        let clocks = Clocks(asked, SystemTime::now());
        self.source.run("migrate", uri)?;
        let mut stopped = None;
        loop {
            let event = self.source.monitor.event(INTERVAL);
            let event = event.map_err(PeerError::Monitor)?.unwrap_or(Value::Null);
            match event["event"].as_str() {
                Some("STOP") => stopped = clocks.instant(&event),
                Some("MIGRATION") if event["data"]["status"] == "completed" => break,
                Some("MIGRATION") if event["data"]["status"] == "failed" => {
                    let account = self.source.run("query-migrate", json!({}))?;
                    return Err(PeerError::Stayed(account.to_string()));
                }
                Some(_) => {}
                None => seen(told(&self.source.run("query-migrate", json!({}))?)),
            }
            go_on()?;
            if asked.elapsed() > MOVE_LIMIT {
                return Err(self.source.console.wait_error("the move", None));
            }
        }
        let told = self.source.monitor.account();
        let account = account(&told.map_err(PeerError::Monitor)?);
        let mut ran = None;
        let limit = Instant::now() + PATIENCE;
        while ran.is_none() {
            let event = destination.monitor.event(INTERVAL);
            let event = event.map_err(PeerError::Monitor)?.unwrap_or(Value::Null);
            if event["event"] == "RESUME" {
                ran = clocks.instant(&event);
            }
            if Instant::now() > limit {
                return Err(destination.console.wait_error("the guest's run", None));
            }
        }
        self.moved = true;
        // The guest is gone, and QEMU keeps its memory until told to end.
        let quit = self.source.monitor.send("quit", json!({}));
        quit.map_err(PeerError::Monitor)?;
        self.source.console.wait_for_end("its end", PATIENCE)?;
        let (Some(stopped), Some(ran)) = (stopped, ran) else {
            return Err(PeerError::Stayed("QEMU told of no stop".to_owned()));
        };
        Ok(Moved {
            asked,
            stopped,
            ran,
            account,
        })
    }

    fn said(&self) -> String {
        let destination = self.destination.as_ref();
        let there = destination.map_or_else(String::new, |there| there.console.said());
        self.source.console.said() + &there
    }
}

/// QEMU with what `machine` has, its serial port on the process's standard streams.
fn command(machine: &Machine, tap: &str) -> Result<Command, PeerError> {
    let mib = machine.memory() >> 20;
    let (kernel, initramfs, cmdline) = machine.payload();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "q35,accel=kvm,memory-backend=memory"]);
    let hint = if machine.realtime_hint() {
        ",kvm-hint-dedicated=on"
    } else {
        ""
    };
    qemu.args(["-cpu", &format!("host{hint}")]);
    qemu.args(["-smp", &machine.vcpus().to_string()]);
    if machine.lock() {
        qemu.args(["-overcommit", "mem-lock=on"]);
    }
    if all_exits_disabled(machine)? {
        qemu.args(["-overcommit", "cpu-pm=on"]);
    }
    qemu.args(["-nodefaults", "-nographic", "-no-reboot"]);
    qemu.args(["-serial", "stdio", "-m", &format!("{mib}M")]);
    qemu.arg("-object").arg(format!(
        "memory-backend-memfd,id=memory,size={mib}M,share=on,hugetlb=on,hugetlbsize=2M,prealloc=on"
    ));
    qemu.arg("-kernel").arg(kernel);
    qemu.arg("-initrd").arg(initramfs);
    qemu.arg("-append").arg(cmdline);
    let net = machine.net();
    qemu.arg("-netdev").arg(format!(
        "tap,id={net},ifname={tap},script=no,downscript=no,vhost=on"
    ));
    qemu.arg("-device").arg(format!(
        "virtio-net-pci,netdev={net},mac={},romfile=",
        machine.mac()
    ));
    Ok(qemu)
}

/// QEMU leaves the guest all of them, or none.
fn all_exits_disabled(machine: &Machine) -> Result<bool, PeerError> {
    let disabled = machine.disable_exits();
    let all = ["hlt", "pause", "mwait"];
    if !disabled.is_empty() && !all.iter().all(|exit| disabled.iter().any(|of| of == exit)) {
        return Err(PeerError::NotAlike {
            vmm: "QEMU",
            what: format!(
                "cpus.disable_exits is {disabled:?}, and it can disable all of {all:?} or none: list all of them or none"
            ),
        });
    }
    Ok(!disabled.is_empty())
}

/// How far a move is, for people.
fn told(progress: &Value) -> String {
    let mib = |key: &str| progress["ram"][key].as_u64().unwrap_or(0) >> 20;
    format!(
        "{}: {} MiB of {} MiB left, {} MiB sent",
        progress["status"].as_str().unwrap_or("starting"),
        mib("remaining"),
        mib("total"),
        mib("transferred")
    )
}

fn account(answer: &Value) -> Account {
    let ram = &answer["ram"];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let page = ram["page-size"].as_u64().unwrap_or(4096);
    Account {
        total_us: number(&answer["total-time"]) * 1000,
        downtime_us: number(&answer["downtime"]) * 1000,
        phases: Vec::new(),
        rounds: number(&ram["dirty-sync-count"]),
        present_bytes: None,
        zero_bytes: number(&ram["duplicate"]) * page,
        sent_bytes: number(&ram["transferred"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(more: Value) -> Result<String, PeerError> {
        let mut document = json!({
            "payload": {"kernel": "k", "initramfs": "i", "cmdline": "c"},
            "cpus": {"boot_vcpus": 1}, "memory": {"size": 64 << 20},
            "net": [{"id": "n", "mac": "52:54:00:00:00:01"}],
        });
        for (part, fields) in more.as_object().unwrap() {
            for (name, value) in fields.as_object().unwrap() {
                document[part][name] = value.clone();
            }
        }
        let machine = Machine::parse(document.to_string().as_bytes()).unwrap();
        let command = command(&machine, "gw0")?;
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        Ok(words.join(" "))
    }

    #[test]
    fn it_gets_the_settings_of_the_config() {
        let plain = arguments(json!({})).unwrap();
        assert!(plain.contains("-cpu host -smp 1"), "{plain}");
        assert!(!plain.contains("-overcommit"), "{plain}");
        let tuned = arguments(json!({
            "cpus": {"realtime_hint": true, "disable_exits": ["mwait", "hlt", "pause"]},
            "memory": {"lock": true},
        }));
        let tuned = tuned.unwrap();
        for words in ["kvm-hint-dedicated=on", "mem-lock=on", "cpu-pm=on"] {
            assert!(tuned.contains(words), "{tuned}");
        }
    }

    #[test]
    fn what_it_cannot_do_alike_is_refused() {
        let refused = arguments(json!({"cpus": {"disable_exits": ["hlt"]}}));
        assert!(refused.unwrap_err().to_string().contains("disable_exits"));
    }

    #[test]
    fn a_moment_of_an_event_is_on_our_clock() {
        let now = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let clocks = Clocks(now, wall);
        let at = |seconds: u64, microseconds: u64| {
            clocks.instant(&json!({
                "timestamp": {"seconds": seconds, "microseconds": microseconds}
            }))
        };
        assert_eq!(at(1001, 5), Some(now + Duration::from_micros(1_000_005)));
        assert_eq!(at(1000, 0), Some(now));
        assert_eq!(at(999, 0), now.checked_sub(Duration::from_secs(1)));
        assert_eq!(clocks.instant(&json!({"event": "STOP"})), None);
    }

    #[test]
    fn an_account_is_read_from_the_monitor() {
        let answer = json!({
            "status": "completed", "total-time": 35012, "downtime": 239, "setup-time": 7,
            "ram": {"transferred": 1234, "duplicate": 3, "page-size": 4096,
                    "dirty-sync-count": 5, "total": 99},
        });
        let account = account(&answer);
        assert_eq!(
            (account.total_us, account.downtime_us),
            (35_012_000, 239_000)
        );
        assert_eq!((account.zero_bytes, account.rounds), (12_288, 5));
    }
}
