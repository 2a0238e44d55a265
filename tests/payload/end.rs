//! How a guest ends, and what the exit code tells of it.

use godwit_lab::peer::listens;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::config::Config;
use crate::support::scratch::Scratch;
use crate::support::vm::TestVm;

#[test]
fn power_off_is_0() {
    TestVm::start(Config::new("poweroff")).wait().assert_code(0);
}

#[test]
fn power_off_is_0_with_no_reboot_too() {
    let vm = TestVm::start_once(Config::new("poweroff"));
    vm.wait().assert_code(0);
}

/// The guest starts again, twice, in the same process, whole: memory that it counts on, its
/// other vCPUs, its serial port.
#[track_caller]
fn starts_again(how: &str) {
    let cmdline = format!("smp=2 beats=3 {how}");
    let mut vm = TestVm::start(Config::new(&cmdline).with(json!({"cpus": {"boot_vcpus": 2}})));
    let pid = vm.pid();
    vm.wait_line("end", 3);
    assert_eq!(vm.pid(), pid);
    let output = vm.terminate().assert_code(0).output;
    output.assert_sound();
    let boots = output.all("boot");
    assert!(boots.len() >= 3, "{}", output.text());
    assert!(boots.iter().all(|boot| *boot == boots[0]), "{boots:?}");
    for smp in output.all("smp") {
        assert_eq!(smp.number("running"), 2);
    }
}

#[track_caller]
fn ends_once(how: &str, code: i32) {
    let output = TestVm::start_once(Config::new(how))
        .wait()
        .assert_code(code)
        .output;
    output.assert_sound();
    assert_eq!(output.all("boot").len(), 1);
    assert_eq!(output.one("end").field("by"), how);
}

#[test]
fn reset_starts_again() {
    starts_again("reset");
}

#[test]
fn reset_with_no_reboot_is_3() {
    ends_once("reset", 3);
}

#[test]
fn reset_by_the_keyboard_controller_starts_again() {
    starts_again("reset8042");
}

#[test]
fn reset_by_the_keyboard_controller_with_no_reboot_is_3() {
    ends_once("reset8042", 3);
}

#[test]
fn triple_fault_starts_again() {
    starts_again("triple");
}

#[test]
fn triple_fault_with_no_reboot_is_4() {
    ends_once("triple", 4);
}

/// SIGTERM and its kin end a running guest with code 0; the socket goes, the log stays.
#[track_caller]
fn ends_by(signal: Signal) {
    let scratch = Scratch::new();
    let socket = scratch.file("serial.sock");
    let config = Config::new("beat_every=100000")
        .with(json!({"serial": {"mode": "Socket", "socket": socket}}));
    let mut vm = TestVm::start_in(scratch, config, &["-v"]);
    vm.wait_until(|_| listens(&socket).then_some(()));
    let mut guest = std::os::unix::net::UnixStream::connect(&socket).expect("connecting");
    // A beat shows that the guest runs.
    let mut byte = [0];
    std::io::Read::read_exact(&mut guest, &mut byte).expect("a beat");
    vm.process.signal(signal);
    let ended = vm.wait().assert_code(0);
    let said = format!("Signal {}", signal as i32);
    assert!(
        ended.process.stderr.contains(&said),
        "{}",
        ended.process.stderr
    );
    assert_eq!(ended.process.stdout, "");
    assert_eq!(ended.scratch.names(), ["vm.json"]);
}

#[test]
fn sigterm_ends_the_guest() {
    ends_by(Signal::SIGTERM);
}

#[test]
fn sigint_ends_the_guest() {
    ends_by(Signal::SIGINT);
}

#[test]
fn sigterm_ends_a_guest_that_halted() {
    let mut vm = TestVm::start(Config::new("halt"));
    vm.wait_line("end", 1);
    let ended = vm.terminate().assert_code(0);
    assert_eq!(ended.process.stderr, "");
    assert_eq!(ended.scratch.names(), ["serial.log", "vm.json"]);
}
