//! Hosts that lack something, or do not give it to this user.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::{User, assert_refused, start, with_socket};
use crate::support::config::{Config, Image};
use crate::support::host::needs_root;
use crate::support::namespace::{apart, bare_dev, node, tap};
use crate::support::process;
use crate::support::scratch::Scratch;

const NO_KVM: [&str; 3] = ["no /dev/kvm", "modprobe kvm_intel", "firmware"];

#[test]
fn no_kvm() {
    apart(|| {
        bare_dev();
        super::refused(json!({}), &NO_KVM);
    });
}

/// The node stays where a package made it, whether the module is loaded or not.
#[test]
fn a_kvm_node_without_its_driver() {
    apart(|| {
        bare_dev();
        // Minor 250 of the misc devices is nobody's.
        node("/dev/kvm", 10, 250);
        super::refused(json!({}), &NO_KVM);
    });
}

#[test]
fn a_kvm_node_that_is_something_else() {
    apart(|| {
        bare_dev();
        node("/dev/kvm", 1, 3);
        super::refused(json!({}), &["/dev/kvm"]);
    });
}

/// Runs as nobody, who reads everything that the config names: copies in the test's folder.
#[track_caller]
fn refused_to_nobody(piece: serde_json::Value, words: &[&str]) {
    needs_root();
    let scratch = Scratch::new();
    let binary = scratch.file("godwit");
    fs::copy(process::binary(), &binary).expect("copying the binary");
    let kernel = scratch.file("kernel");
    fs::copy(Image::Pvh.path(), &kernel).expect("copying the payload");
    let config = Config::new("poweroff").with(json!({"payload": {"kernel": kernel}}));
    let config = config.with(piece).to_json();
    let path = scratch.write("vm.json", config);
    let before = scratch.names();
    assert_refused(&start(&binary, &path, User::Nobody), words);
    assert_eq!(scratch.names(), before);
}

#[test]
fn no_permission_for_kvm() {
    apart(|| {
        bare_dev();
        node("/dev/kvm", 10, 232);
        fs::set_permissions("/dev/kvm", fs::Permissions::from_mode(0o600))
            .expect("closing /dev/kvm");
        refused_to_nobody(
            json!({}),
            &["No permission to open /dev/kvm", "usermod -aG kvm", "root"],
        );
    });
}

#[test]
fn no_permission_for_the_tap() {
    apart(|| {
        // An interface of root's: what belongs to nobody in particular, anybody may open.
        tap("tap7", &["vnet_hdr", "user", "root"]);
        refused_to_nobody(
            json!({"net": [{"id": "net0", "tap": "tap7"}]}),
            &["net0", "No permission", "'tap7'", "CAP_NET_ADMIN"],
        );
    });
}

#[test]
fn no_permission_for_the_kernel() {
    needs_root();
    let scratch = Scratch::new();
    let kernel = scratch.write("secret", "secret");
    fs::set_permissions(&kernel, fs::Permissions::from_mode(0o600)).expect("closing the kernel");
    refused_to_nobody(
        json!({"payload": {"kernel": kernel}}),
        &["payload.kernel:", "secret cannot be read: no permission"],
    );
}

#[test]
fn no_permission_for_fifo() {
    refused_to_nobody_at_kvm(
        json!({"cpus": {"sched": {"policy": "fifo", "priority": 1}}}),
        &["vCPU 0", "SCHED_FIFO", "CAP_SYS_NICE"],
    );
}

#[test]
fn no_permission_to_lock_memory() {
    refused_to_nobody(
        json!({"memory": {"lock": true}}),
        &[
            "Could not lock guest memory",
            "RLIMIT_MEMLOCK",
            "CAP_IPC_LOCK",
        ],
    );
}

/// As [`refused_to_nobody`], with a `/dev/kvm` for all.
fn refused_to_nobody_at_kvm(piece: serde_json::Value, words: &[&str]) {
    apart(|| {
        assert!(
            fs::exists("/dev/kvm").is_ok_and(|there| there),
            "needs /dev/kvm"
        );
        bare_dev();
        node("/dev/kvm", 10, 232);
        refused_to_nobody(piece, words);
    });
}

#[test]
fn a_socket_in_a_folder_without_permission() {
    needs_root();
    let scratch = Scratch::new();
    let binary = scratch.file("godwit");
    fs::copy(process::binary(), &binary).expect("copying the binary");
    let kernel = scratch.file("kernel");
    fs::copy(Image::Pvh.path(), &kernel).expect("copying the payload");
    let config =
        with_socket(&scratch, Config::new("poweroff")).with(json!({"payload": {"kernel": kernel}}));
    let path = scratch.write("vm.json", config.to_json());
    let socket = scratch.file("serial.sock").display().to_string();
    let ended = start(&binary, &path, User::Nobody);
    assert_refused(&ended, &["serial port", &socket, "Permission denied"]);
}
