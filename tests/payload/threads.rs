//! Threads on the host: names, CPUs, scheduling.

use serde_json::json;

use crate::support::config::Config;
use crate::support::host::{self, SCHED_FIFO, SCHED_OTHER, Task, needs_root};
use crate::support::vm::TestVm;

/// Two CPUs, the first for others and the last for vCPUs.
#[track_caller]
fn two_cpus() -> [u32; 2] {
    match host::cpus().as_slice() {
        [first, .., last] => [*first, *last],
        _ => panic!("needs two CPUs"),
    }
}

/// The threads of a guest that has halted: vCPUs, and the others.
fn threads(vm: &mut TestVm) -> (Vec<Task>, Vec<Task>) {
    vm.wait_line("end", 1);
    let tasks = host::tasks(vm.pid());
    tasks
        .into_iter()
        .partition(|task| task.name.starts_with("vcpu"))
}

fn names(tasks: &[Task]) -> Vec<&str> {
    tasks.iter().map(|task| task.name.as_str()).collect()
}

#[test]
fn every_thread_is_held_by_the_filter_of_system_calls() {
    let mut vm = TestVm::start(Config::new("beats=2 halt"));
    vm.wait_line("end", 1);
    for thread in std::fs::read_dir(format!("/proc/{}/task", vm.pid())).expect("its threads") {
        let status = thread.expect("a thread").path().join("status");
        let status = std::fs::read_to_string(status).expect("its status");
        // 2: SECCOMP_MODE_FILTER, proc_pid_status(5).
        assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
        assert!(status.contains("\nNoNewPrivs:\t1\n"), "{status}");
    }
    vm.terminate().assert_code(0);
}

#[test]
fn vcpu_threads_have_names() {
    let config = Config::new("smp=3 beats=2 halt").with(json!({"cpus": {"boot_vcpus": 3}}));
    let mut vm = TestVm::start(config);
    let (vcpus, others) = threads(&mut vm);
    assert_eq!(names(&vcpus), ["vcpu0", "vcpu1", "vcpu2"]);
    assert!(names(&others).contains(&"devices"), "{others:?}");
    assert!(
        vcpus.iter().all(|task| task.policy == SCHED_OTHER),
        "{vcpus:?}"
    );
    vm.terminate().assert_code(0);
}

#[test]
fn threads_are_where_the_config_says() {
    let [emulator, vcpu] = two_cpus();
    let config = Config::new("smp=2 beats=2 halt").with(json!({
        "cpus": {"boot_vcpus": 2, "affinity": [
            {"vcpu": 0, "host_cpus": [vcpu]},
            {"vcpu": 1, "host_cpus": [vcpu]},
        ]},
        "platform": {"emulator_cpus": [emulator]},
    }));
    let mut vm = TestVm::start(config);
    let (vcpus, others) = threads(&mut vm);
    assert_eq!(names(&vcpus), ["vcpu0", "vcpu1"]);
    for task in &vcpus {
        assert_eq!(task.cpus, vcpu.to_string(), "{task:?}");
    }
    for task in &others {
        assert_eq!(task.cpus, emulator.to_string(), "{task:?}");
    }
    vm.terminate().assert_code(0);
}

/// A vCPU without an affinity runs anywhere, also when the other threads have a place.
#[test]
fn vcpus_run_anywhere_unless_told() {
    let [emulator, vcpu] = two_cpus();
    let config = Config::new("smp=2 beats=2 halt").with(json!({
        "cpus": {"boot_vcpus": 2, "affinity": [{"vcpu": 1, "host_cpus": [vcpu]}]},
        "platform": {"emulator_cpus": [emulator]},
    }));
    let mut vm = TestVm::start(config);
    let ours = host::tasks(std::process::id());
    let anywhere = &ours.first().expect("our own threads").cpus;
    let (vcpus, _) = threads(&mut vm);
    let cpus: Vec<_> = vcpus.iter().map(|task| task.cpus.clone()).collect();
    assert_eq!(cpus, [anywhere.clone(), vcpu.to_string()]);
    vm.terminate().assert_code(0);
}

#[test]
fn vcpus_are_fifo_when_asked() {
    needs_root();
    let [emulator, vcpu] = two_cpus();
    let config = Config::new("beats=2 halt").with(json!({
        "cpus": {"sched": {"policy": "fifo", "priority": 3},
                 "affinity": [{"vcpu": 0, "host_cpus": [vcpu]}]},
        "platform": {"emulator_cpus": [emulator]},
    }));
    let mut vm = TestVm::start(config);
    let (vcpus, others) = threads(&mut vm);
    assert_eq!(vcpus.len(), 1);
    for task in &vcpus {
        assert_eq!((task.policy, task.priority), (SCHED_FIFO, 3), "{task:?}");
    }
    for task in &others {
        assert_eq!((task.policy, task.priority), (SCHED_OTHER, 0), "{task:?}");
    }
    vm.terminate().assert_code(0);
}

/// How often a guest on a terminal has booted.
fn boots(vm: &TestVm) -> usize {
    String::from_utf8_lossy(&vm.process.stdout())
        .matches("@cmdline")
        .count()
}

/// The machine is built anew by a reset, and so are its threads.
#[test]
fn a_reset_puts_threads_where_they_were() {
    let [emulator, vcpu] = two_cpus();
    let config = Config::new("control").with(json!({
        "cpus": {"affinity": [{"vcpu": 0, "host_cpus": [vcpu]}]},
        "platform": {"emulator_cpus": [emulator]},
        "serial": {"mode": "Tty"},
    }));
    let mut vm = TestVm::start(config);
    // Without the one that built the machine: it stays for a moment.
    let lasting = |vm: &TestVm| {
        let mut tasks = host::tasks(vm.pid());
        tasks.retain(|task| task.name != "worker");
        tasks
    };
    vm.wait_until(|vm| (boots(vm) == 1).then_some(()));
    let before = lasting(&vm);
    vm.process.type_in("r");
    vm.wait_until(|vm| (boots(vm) == 2).then_some(()));
    let after = lasting(&vm);
    assert_eq!(before, after);
    let placed = after.iter().find(|task| task.name == "vcpu0");
    assert_eq!(placed.map(|task| task.cpus.clone()), Some(vcpu.to_string()));
    vm.terminate().assert_code(0);
}

/// A guest may reset itself as often as it likes.
#[test]
fn resets_leave_no_descriptor_behind() {
    let config = Config::new("control").with(json!({"serial": {"mode": "Tty"}}));
    let mut vm = TestVm::start(config);
    let descriptors = |vm: &TestVm| {
        let folder = format!("/proc/{}/fd", vm.pid());
        std::fs::read_dir(folder).map_or(usize::MAX, Iterator::count)
    };
    vm.wait_until(|vm| (boots(vm) == 1).then_some(()));
    let before = descriptors(&vm);
    for boot in 2..=4 {
        vm.process.type_in("r");
        vm.wait_until(|vm| (boots(vm) == boot).then_some(()));
    }
    vm.wait_until(|vm| (descriptors(vm) <= before).then_some(()));
    vm.terminate().assert_code(0);
}
