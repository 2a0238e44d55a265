//! A guest that polls is left alone: no other thread of godwit's is on its core, none wakes up
//! while nobody asks for anything, and the vCPU never comes out to godwit.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::config::{Config, MIB};
use crate::support::host::{self, needs_root};
use crate::support::scrape::{scrape, value};
use crate::support::scratch::Scratch;
use crate::support::vm::TestVm;

/// How long the guest is watched.
const WATCH: Duration = Duration::from_secs(5);
/// Threads of godwit's other than vCPUs may be switched to this often meanwhile, all together:
/// the kernel's own reasons (a page that it moves, a stop of all CPUs) are not timers of ours,
/// of which the slowest that would matter fires once in a second.
const SWITCHES: u64 = 4;

/// A thread as the scheduler knows it.
#[derive(Clone, Debug)]
struct Thread {
    name: String,
    /// `Cpus_allowed_list`.
    allowed: String,
    /// The CPU it last ran on.
    last: u64,
    voluntary: u64,
    involuntary: u64,
}

impl Thread {
    fn is_vcpu(&self) -> bool {
        self.name.starts_with("vcpu")
    }

    fn switches(&self) -> u64 {
        self.voluntary + self.involuntary
    }
}

/// The threads of a process by their ids.
fn threads(pid: u32) -> BTreeMap<String, Thread> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("listing threads");
    let read = |task: fs::DirEntry| {
        let folder = task.path();
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let entry = |key: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
        };
        // The name ends with the last bracket; then comes field 3 (proc_pid_stat(5)).
        let (_, fields) = stat.rsplit_once(')')?;
        let thread = Thread {
            name: entry("Name")?.to_owned(),
            allowed: entry("Cpus_allowed_list")?.to_owned(),
            last: fields.split_whitespace().nth(39 - 3)?.parse().ok()?,
            voluntary: entry("voluntary_ctxt_switches")?.parse().ok()?,
            involuntary: entry("nonvoluntary_ctxt_switches")?.parse().ok()?,
        };
        Some((task.file_name().to_string_lossy().into_owned(), thread))
    };
    tasks.flatten().filter_map(read).collect()
}

/// What a process could be woken up by without being asked for anything.
fn assert_no_timer(pid: u32) {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("listing descriptors");
    let targets = descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    for target in targets {
        assert!(!target.to_string_lossy().contains("timerfd"), "{target:?}");
    }
    // Absent where the kernel does not show them.
    let timers = fs::read_to_string(format!("/proc/{pid}/timers")).unwrap_or_default();
    assert_eq!(timers, "", "POSIX timers");
}

/// What the vCPU came out for: by godwit's count, and by those kinds of KVM's that lead out.
fn exits(socket: &Path) -> Vec<(String, f64)> {
    let scrape = scrape(socket);
    let name = "godwit_vcpu_exits_to_user_space_total";
    let mut exits = vec![(name.to_owned(), value(&scrape, name, &[("vcpu", "0")]))];
    let name = "godwit_kvm_vcpu_exits_by_kind_total";
    for kind in ["io", "mmio", "signal"] {
        let labels = [("vcpu", "0"), ("kind", kind)];
        exits.push((kind.to_owned(), value(&scrape, name, &labels)));
    }
    exits
}

#[test]
fn a_polling_guest_is_left_alone() {
    needs_root();
    let _core = super::core();
    let cpus = host::cpus();
    let (emulator, vcpu) = match cpus.as_slice() {
        [first, .., last] => (*first, *last),
        _ => panic!("needs two CPUs"),
    };
    let size = 64 * MIB;
    // Its loop reads the time-stamp counter, and writes to the serial port after years.
    let config = Config::new("facts beat_every=1000000000000").with(json!({
        "cpus": {
            "affinity": [{"vcpu": 0, "host_cpus": [vcpu]}],
            "sched": {"policy": "fifo", "priority": 1},
            "disable_exits": ["hlt", "pause"],
            "halt_poll_ns": 0,
            "realtime_hint": true,
        },
        "memory": {"size": size, "prefault": true, "lock": true},
        "platform": {"emulator_cpus": [emulator], "migration_cpus": [emulator]},
    }));
    let scratch = Scratch::new();
    // All that has a thread or waits for something is there.
    let disk = scratch.write("disk", vec![0; 1 << 20]);
    let config = config.with(json!({"disks": [{"path": disk}]}));
    let (socket, events) = (scratch.file("api.sock"), scratch.file("events"));
    let text = |path: &Path| path.to_str().expect("a path of text").to_owned();
    let (place, monitor) = (text(&socket), text(&events));
    let arguments = ["--api-socket", &place, "--event-monitor", &monitor];
    let mut vm = TestVm::start_in(scratch, config, &arguments);
    // The last of the facts; then comes the loop.
    vm.wait_line("cpu", 1);
    vm.wait_until(|vm| (host::tasks(vm.pid()).iter().all(|t| t.name != "worker")).then_some(()));
    // It gets there when it no longer writes.
    let quiet = |vm: &mut TestVm| {
        let before = vm.output().text().len();
        thread::sleep(Duration::from_millis(500));
        (vm.output().text().len() == before).then_some(())
    };
    vm.wait_until(quiet);
    let hints = vm.output().one("hypervisor").number("hints");
    assert_eq!(hints & 1, 1, "KVM_HINTS_REALTIME");
    assert!(host::status_bytes(vm.pid(), "VmLck") >= size);

    let exits_before = exits(&socket);
    // The thread that answered has gone.
    vm.wait_until(|vm| (host::tasks(vm.pid()).iter().all(|t| t.name != "metrics")).then_some(()));
    thread::sleep(Duration::from_millis(500));
    let before = threads(vm.pid());
    thread::sleep(WATCH);
    let after = threads(vm.pid());
    let exits_after = exits(&socket);

    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    assert_eq!(exits_before, exits_after, "it came out");
    assert_no_timer(vm.pid());
    let mut switches = 0;
    for (id, now) in &after {
        let then = before.get(id).expect("the same threads");
        if now.is_vcpu() {
            assert_eq!(now.allowed, vcpu.to_string(), "{now:?}");
            assert_eq!(now.last, u64::from(vcpu), "{now:?}");
            // It never waits.
            assert_eq!(now.voluntary, then.voluntary, "{now:?}");
        } else {
            assert_eq!(now.allowed, emulator.to_string(), "{now:?}");
            // One that has not run since it was put there last ran where it was.
            let ran = now.switches() > then.switches();
            assert!(!ran || now.last == u64::from(emulator), "{now:?}");
            switches += now.switches() - then.switches();
        }
    }
    assert!(
        switches <= SWITCHES,
        "{switches} switches:\n{before:#?}\n{after:#?}"
    );
    vm.terminate().assert_code(0);
}
