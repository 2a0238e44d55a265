//! `GET /metrics` of the real process, read by a Prometheus parser.

use serde_json::json;

use crate::support::config::{Config, MIB};
use crate::support::scrape::{scrape, value};
use crate::support::scratch::Scratch;
use crate::support::vm::TestVm;

fn start(config: Config) -> (TestVm, std::path::PathBuf) {
    let scratch = Scratch::new();
    let socket = scratch.file("api.sock");
    let place = socket.to_str().expect("a path of text").to_owned();
    let vm = TestVm::start_in(scratch, config, &["--api-socket", &place]);
    (vm, socket)
}

/// Each beat is a byte that the guest writes to a port: an exit.
#[test]
fn metrics_tell_what_the_guest_did() {
    let config = Config::new("smp=2 beats=200 halt").with(json!({"cpus": {"boot_vcpus": 2}}));
    let (mut vm, socket) = start(config);
    vm.wait_line("end", 1);
    let scrape = scrape(&socket);
    let of = |name: &str, labels: &[(&str, &str)]| value(&scrape, name, labels);
    let sum = |name: &str, kind: &[(&str, &str)]| -> f64 {
        let vcpus = ["0", "1"].iter();
        vcpus
            .map(|vcpu| of(name, &[&[("vcpu", *vcpu)], kind].concat()))
            .sum()
    };
    let exits = sum("godwit_kvm_vcpu_exits_total", &[]);
    let io = sum("godwit_kvm_vcpu_exits_by_kind_total", &[("kind", "io")]);
    let sent = of("godwit_serial_transmit_bytes_total", &[]);
    assert!(
        sent >= 200.0 && exits >= 200.0,
        "{exits} exits, {sent} bytes"
    );
    // A KVM that interprets the guest's kernel counts no exit for its port writes by kind.
    assert!(io == 0.0 || io >= 200.0, "{io} exits of {exits}");
    for vcpu in ["0", "1"] {
        let labels = &[("vcpu", vcpu)];
        assert!(of("godwit_kvm_vcpu_exits_total", labels) > 0.0, "{vcpu}");
        let thread = format!("vcpu{vcpu}");
        let labels = &[("role", "vcpu"), ("thread", thread.as_str())];
        assert_eq!(of("godwit_threads", labels), 1.0);
    }
    assert_eq!(of("godwit_vm_vcpus", &[]), 2.0);
    assert_eq!(of("godwit_vm_state", &[("state", "running")]), 1.0);
    let size = (64 * MIB) as f64;
    assert_eq!(of("godwit_guest_memory_size_bytes", &[]), size);
    let allocated = of("godwit_guest_memory_allocated_bytes", &[]);
    assert!(allocated > 0.0 && allocated <= size, "{allocated}");
    assert!(of("process_open_fds", &[]) > 3.0);
    assert!(of("process_cpu_seconds_total", &[]) >= 0.0);
    vm.terminate().assert_code(0);
}

/// A reset makes the virtual machine anew, and its counters with it.
#[test]
fn metrics_follow_the_machine_over_a_reset() {
    let config = Config::new("control").with(json!({"serial": {"mode": "Tty"}}));
    let (mut vm, socket) = start(config);
    let boots = |vm: &TestVm| {
        String::from_utf8_lossy(&vm.process.stdout())
            .matches("@cmdline")
            .count()
    };
    vm.wait_until(|vm| (boots(vm) == 1).then_some(()));
    vm.process.type_in("r");
    vm.wait_until(|vm| (boots(vm) == 2).then_some(()));
    vm.wait_until(|_| {
        let scrape = scrape(&socket);
        (value(&scrape, "godwit_vm_state", &[("state", "running")]) == 1.0).then_some(())
    });
    let scrape = scrape(&socket);
    let exits = value(&scrape, "godwit_kvm_vcpu_exits_total", &[("vcpu", "0")]);
    assert!(exits > 0.0);
    vm.terminate().assert_code(0);
}
