//! The kernel's own virtio_net driver.

use std::process::Command;

use crate::support::linux::{self, Guest, LinuxVm, Tap};
use crate::support::scratch::Scratch;

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new("timeout")
        .arg("60")
        .arg(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn ping_and_tcp_pass_in_both_directions() {
    let tap = Tap::new("gwnet0", true);
    tap.address("192.168.77.1/24");
    let config = linux::task("godwit.task=net godwit.pairs=2").with(linux::net(tap.name(), 2));
    let mut vm = LinuxVm::start(Scratch::new(), config, &[]);
    vm.wait_for("godwit: ready net");

    let ping = output("ping", &["-c", "5", "-i", "0.2", "-W", "5", "192.168.77.2"]);
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    // 60,000 bytes of payload in one datagram: fragments, each whole.
    let large = output(
        "ping",
        &["-c", "2", "-s", "60000", "-W", "5", "192.168.77.2"],
    );
    assert!(large.contains(" 0% packet loss"), "{large}");

    for direction in [&[][..], &["--reverse"]] {
        let mut arguments = vec!["--client", "192.168.77.2", "--time", "3", "--json"];
        arguments.extend(direction);
        let report: serde_json::Value =
            serde_json::from_str(&output("iperf3", &arguments)).expect("iperf3's report");
        let bytes = report["end"]["sum_received"]["bytes"].as_u64();
        assert!(bytes.is_some_and(|bytes| bytes > 1 << 20), "{report}");
    }
    // A segment larger than the MTU crosses only with TCP segmentation offload; the guest counts
    // fewer frames than its bytes need at 1514 each.
    let counters = vm.run(
        "cat /sys/class/net/eth0/statistics/tx_bytes /sys/class/net/eth0/statistics/tx_packets",
    );
    let numbers: Vec<u64> = counters
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    let [bytes, packets] = numbers[..] else {
        panic!("two numbers, not {counters:?}")
    };
    assert!(
        bytes / packets.max(1) > 1514,
        "{bytes} bytes in {packets} frames"
    );
    vm.type_in("stop\n");
    vm.wait_code(0);
}
