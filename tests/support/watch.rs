//! A guest that polls, and what godwit does meanwhile: the scheduler, KVM and the kernel's tracing
//! are asked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use godwit_api::client::Client;
use godwit_api::response::Counters;
use godwit_api::router::Method;
use nix::unistd::gettid;
use serde_json::json;

use super::config::{Config, MIB};
use super::host;
use super::process::PATIENCE;
use super::scrape::{scrape, value};
use super::scratch::Scratch;
use super::trace::{Event, Trace, of_threads};
use super::vm::TestVm;

/// Threads of godwit's other than vCPUs may be switched to this often meanwhile, all together: the
/// kernel's own reasons (a page that it moves, a stop of all CPUs) are not timers of ours, of which
/// the slowest that would matter fires once in a second.
const SWITCHES: u64 = 12;

/// The guest's memory, in bytes.
const SIZE: u64 = 64 * MIB;

/// Functions of timers that the scheduler starts for the thread that runs: no system call does.
const SCHEDULER: [&str; 7] = [
    "tick_sched_timer",
    "tick_nohz_handler",
    "hrtick",
    "sched_rt_period_timer",
    "sched_cfs_period_timer",
    "dl_task_timer",
    "inactive_task_timer",
];

/// For what a vCPU may leave the guest while it polls: something happened on its CPU.
const OUTSIDE: [&str; 5] = [
    "interrupt",
    "nmi",
    "smi",
    "EXTERNAL_INTERRUPT",
    "PREEMPTION_TIMER",
];

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
    /// `schedstat`: time on a CPU and time in which it waited for one, in nanoseconds.
    ran: u64,
    waited: u64,
    /// `se.nr_migrations` of `sched`; absent where the kernel does not tell.
    migrations: Option<u64>,
}

impl Thread {
    fn read(folder: &Path) -> Option<Self> {
        let file = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let (status, stat, schedstat) = (file("status")?, file("stat")?, file("schedstat")?);
        let entry = |key: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
        };
        // The name ends with the last bracket; then comes field 3 (proc_pid_stat(5)).
        let (_, fields) = stat.rsplit_once(')')?;
        let mut times = schedstat.split_whitespace().map(str::parse);
        let sched = file("sched").unwrap_or_default();
        let mut lines = sched.lines().filter(|line| line.contains("nr_migrations"));
        let migrations = lines.find_map(|line| line.rsplit_once(':')?.1.trim().parse().ok());
        Some(Self {
            name: entry("Name")?.to_owned(),
            allowed: entry("Cpus_allowed_list")?.to_owned(),
            last: fields.split_whitespace().nth(39 - 3)?.parse().ok()?,
            voluntary: entry("voluntary_ctxt_switches")?.parse().ok()?,
            involuntary: entry("nonvoluntary_ctxt_switches")?.parse().ok()?,
            ran: times.next()?.ok()?,
            waited: times.next()?.ok()?,
            migrations,
        })
    }

    fn is_vcpu(&self) -> bool {
        self.name.starts_with("vcpu")
    }

    fn switches(&self) -> u64 {
        self.voluntary + self.involuntary
    }
}

/// The threads of a process by their ids.
fn threads(pid: u32) -> BTreeMap<u32, Thread> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("listing threads");
    let read = |task: fs::DirEntry| {
        let id = task.file_name().to_str()?.parse().ok()?;
        Some((id, Thread::read(&task.path())?))
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

/// What the vCPU came out for, by `vm.counters`: by godwit's count, and by those kinds of KVM's
/// that lead out or stop it. `/metrics` tells the same.
fn exits(socket: &Path) -> Vec<(String, u64)> {
    let mut client = Client::new(socket);
    client.set_time_limit(Some(PATIENCE));
    let counters: Counters = client.get("vm.counters").expect("counters");
    let vcpu = counters.0.get("__vcpu0").expect("those of the vCPU");
    let scrape = scrape(socket);
    let exit = |name: &str, metric: &str, labels: &[(&str, &str)]| {
        let count = *vcpu.get(name).unwrap_or_else(|| panic!("{name}: {vcpu:?}"));
        assert_eq!(value(&scrape, metric, labels), count as f64, "{name}");
        (name.to_owned(), count)
    };
    let to_user_space = "godwit_vcpu_exits_to_user_space_total";
    let by_kind = "godwit_kvm_vcpu_exits_by_kind_total";
    let kinds = ["io", "mmio", "signal", "halt"].map(|kind| {
        let labels = [("vcpu", "0"), ("kind", kind)];
        exit(&format!("{kind}_exits"), by_kind, &labels)
    });
    let all = exit("exits_to_user_space", to_user_space, &[("vcpu", "0")]);
    [all].into_iter().chain(kinds).collect()
}

/// Buffers for what is traced while a guest is watched.
struct Buffers {
    core: Trace,
    timers: Trace,
}

impl Buffers {
    /// To be called before a vCPU polls: their size is set by a work on each CPU, which would never
    /// have its turn on one whose `SCHED_FIFO` thread is not throttled.
    fn new() -> Self {
        Self {
            core: Trace::new("core"),
            timers: Trace::new("timers"),
        }
    }
}

/// What is traced while a guest is watched.
struct Traces<'a> {
    /// Who ran on the vCPU's CPU, and what its vCPU left the guest for.
    core: &'a Trace,
    /// Timers that godwit's threads start, threads that they make; and timers of the test's own.
    timers: &'a Trace,
    vcpu: u32,
    test: u32,
    with_exits: bool,
}

impl<'a> Traces<'a> {
    fn start(
        buffers: &'a Buffers,
        threads: &BTreeMap<u32, Thread>,
        cpu: u32,
        with_exits: bool,
    ) -> Self {
        let vcpu = threads.iter().find(|(_, thread)| thread.is_vcpu());
        let traces = Self {
            core: &buffers.core,
            timers: &buffers.timers,
            vcpu: *vcpu.expect("a vCPU").0,
            test: gettid().as_raw().cast_unsigned(),
            with_exits,
        };
        let of_vcpu = of_threads(&[traces.vcpu]);
        traces.core.on_cpu(cpu);
        traces.core.enable("sched/sched_switch", None);
        traces.core.enable("kvm/kvm_userspace_exit", Some(&of_vcpu));
        if with_exits {
            traces.core.enable("kvm/kvm_exit", Some(&of_vcpu));
        }
        let all: Vec<u32> = threads.keys().copied().chain([traces.test]).collect();
        let of_all = of_threads(&all);
        for event in ["hrtimer_start", "itimer_state", "timer_start"] {
            traces
                .timers
                .enable(&format!("timer/{event}"), Some(&of_all));
        }
        let made = "sched/sched_process_fork";
        traces.timers.enable(made, Some(&of_all));
        traces
    }

    /// They see this vCPU: it came out to be paused, and left its CPU. That it came back is not
    /// asked for: not every kernel traces the switch from an idle CPU. Whoever else ran while the
    /// vCPU polls took its place, which is traced.
    fn assert_see(&self) {
        let events = self.core.events();
        let out = |event: &Event| event.name == "kvm_userspace_exit" && event.thread == self.vcpu;
        assert!(events.iter().any(out), "no pause was traced: {events:?}");
        let exit = events.iter().any(|event| event.name == "kvm_exit");
        assert_eq!(exit, self.with_exits, "exits of a pause: {events:?}");
        let vcpu = self.vcpu.to_string();
        let left = |event: &Event| event.field("prev_pid") == Some(&vcpu);
        assert!(events.iter().any(left), "no switch was traced: {events:?}");
    }

    fn clear(&self) {
        self.core.clear();
        self.timers.clear();
    }

    /// Only the vCPU, of godwit's threads, ran on its CPU; it never came out; nobody started a
    /// timer or a thread.
    fn assert_quiet(&self, threads: &BTreeMap<u32, Thread>) {
        let core = self.core.events();
        let mut others: BTreeMap<String, u32> = BTreeMap::new();
        let mut reasons: BTreeMap<String, u32> = BTreeMap::new();
        for event in &core {
            match event.name.as_str() {
                "sched_switch" => {
                    for key in ["prev_pid", "next_pid"] {
                        let id = event.field(key).and_then(|id| id.parse().ok());
                        let ours = id
                            .filter(|id| *id != self.vcpu)
                            .and_then(|id| threads.get(&id));
                        assert!(ours.is_none(), "{ours:?}: {event:?}");
                    }
                    let next = event.field("next_comm").unwrap_or("?").to_owned();
                    *others.entry(next).or_default() += 1;
                }
                "kvm_exit" => {
                    let after = event.fields.split_once("reason ").map(|(_, after)| after);
                    let reason = after.and_then(|after| after.split_whitespace().next());
                    *reasons.entry(reason.unwrap_or("?").to_owned()).or_default() += 1;
                }
                _ => panic!("it came out: {event:?}"),
            }
        }
        println!("ran on the CPU: {others:?}; exits: {reasons:?}");
        for reason in reasons.keys() {
            assert!(OUTSIDE.contains(&reason.as_str()), "exits: {reasons:?}");
        }
        let timers = self.timers.events();
        // The test slept: its own timer is there.
        let slept = |event: &Event| {
            event.thread == self.test && event.field("function") == Some("hrtimer_wakeup")
        };
        assert!(timers.iter().any(slept), "no timer was traced: {timers:?}");
        let ours = |event: &&Event| event.thread != self.test && !event.interrupt;
        let started = timers.iter().filter(ours).filter(|event| {
            let function = event.field("function");
            function.is_none_or(|function| !SCHEDULER.contains(&function))
        });
        let started: Vec<_> = started.collect();
        assert!(started.is_empty(), "{started:#?}");
    }
}

/// A guest that polls: one vCPU under `SCHED_FIFO` on a CPU of its own, whose loop reads the
/// time-stamp counter.
pub struct Polling {
    vm: TestVm,
    buffers: Buffers,
    socket: PathBuf,
    /// The vCPU's CPU, and that of all other threads.
    vcpu: u32,
    emulator: u32,
}

impl Polling {
    /// Boots it, and waits until it polls. To be called where mounts are the test's own.
    pub fn start(vcpu: u32, emulator: u32) -> Self {
        let buffers = Buffers::new();
        // It writes to the serial port after years.
        let config = Config::new("facts beat_every=1000000000000").with(json!({
            "cpus": {
                "affinity": [{"vcpu": 0, "host_cpus": [vcpu]}],
                "sched": {"policy": "fifo", "priority": 1},
                "disable_exits": ["hlt", "pause"],
                "halt_poll_ns": 0,
                "realtime_hint": true,
            },
            "memory": {"size": SIZE, "prefault": true, "lock": true},
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
        // It gets there when it no longer writes.
        let quiet = |vm: &mut TestVm| {
            let before = vm.output().text().len();
            thread::sleep(Duration::from_millis(500));
            (vm.output().text().len() == before).then_some(())
        };
        vm.wait_until(quiet);
        let hints = vm.output().one("hypervisor").number("hints");
        assert_eq!(hints & 1, 1, "KVM_HINTS_REALTIME");
        assert!(host::status_bytes(vm.pid(), "VmLck") >= SIZE);
        Self {
            vm,
            buffers,
            socket,
            vcpu,
            emulator,
        }
    }

    /// Waits until no thread is there that was made for what was asked last.
    fn settle(vm: &mut TestVm) {
        let passing = ["worker", "metrics"];
        vm.wait_until(|vm| {
            let tasks = host::tasks(vm.pid());
            let settled = tasks
                .iter()
                .all(|task| !passing.contains(&task.name.as_str()));
            settled.then_some(())
        });
        thread::sleep(Duration::from_millis(500));
    }

    fn put(&self, route: &str) {
        let mut client = Client::new(&self.socket);
        client.set_time_limit(Some(PATIENCE));
        let answer = client.call(Method::Put, &format!("/api/v1/{route}"), b"", &[]);
        answer.unwrap_or_else(|error| panic!("{route}: {error}"));
    }

    /// Watches it for `time`, then ends it. `with_exits`: KVM's exits are traced too, where guests
    /// run on the CPU itself.
    pub fn watch(mut self, time: Duration, with_exits: bool) {
        let pid = self.vm.pid();
        Self::settle(&mut self.vm);
        let traces = Traces::start(&self.buffers, &threads(pid), self.vcpu, with_exits);
        self.put("vm.pause");
        self.put("vm.resume");
        Self::settle(&mut self.vm);
        traces.assert_see();
        let exits_before = exits(&self.socket);
        Self::settle(&mut self.vm);
        let before = threads(pid);
        traces.clear();
        thread::sleep(time);
        let after = threads(pid);
        traces.assert_quiet(&after);
        let exits_after = exits(&self.socket);

        assert!(before.keys().eq(after.keys()), "{before:#?}\n{after:#?}");
        assert_eq!(exits_before, exits_after, "it came out");
        assert_no_timer(pid);
        let mut switches = 0;
        for (id, now) in &after {
            let then = before.get(id).expect("the same threads");
            if now.is_vcpu() {
                self.assert_polled(then, now, time);
                continue;
            }
            assert_eq!(now.allowed, self.emulator.to_string(), "{now:?}");
            // One that has not run since it was put there last ran where it was.
            let ran = now.switches() > then.switches();
            assert!(!ran || now.last == u64::from(self.emulator), "{now:?}");
            switches += now.switches() - then.switches();
        }
        assert!(
            switches <= SWITCHES,
            "{switches} switches:\n{before:#?}\n{after:#?}"
        );
        self.vm.terminate().assert_code(0);
    }

    /// The vCPU never slept, never moved, and had its CPU: nobody else wanted it for long.
    fn assert_polled(&self, then: &Thread, now: &Thread, time: Duration) {
        assert_eq!(now.allowed, self.vcpu.to_string(), "{now:?}");
        assert_eq!(now.last, u64::from(self.vcpu), "{now:?}");
        assert_eq!(now.voluntary, then.voluntary, "{now:?}");
        assert_eq!(now.migrations, then.migrations, "{now:?}");
        let share = |after: u64, before: u64| {
            Duration::from_nanos(after - before).as_secs_f64() / time.as_secs_f64()
        };
        let ran = share(now.ran, then.ran);
        println!(
            "the vCPU ran for {:.2} % of {time:?}, waited for {:.2} %, was switched away {} times",
            ran * 100.0,
            share(now.waited, then.waited) * 100.0,
            now.involuntary - then.involuntary
        );
        // It polls. How much of the CPU it had is the machine's affair.
        assert!(ran > 0.5, "{then:?}\n{now:?}");
    }
}
