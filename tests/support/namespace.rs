//! Namespaces of a thread: other mounts, other network interfaces, gone with what runs in them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::panic;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{self, Mode, SFlag};

use super::host::needs_root;

/// Runs `test` on a thread whose mounts and network are its own; what it starts has them too.
pub fn apart(test: impl FnOnce() + Send) {
    needs_root();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
            unshare(flags).expect("needs namespaces: unshare");
            run("mount", &["--make-rprivate", "/"]);
            // Interfaces are shown by a sysfs that was mounted in their namespace.
            run("mount", &["-t", "sysfs", "sysfs", "/sys"]);
            test();
        });
        if let Err(panic) = thread.join() {
            panic::resume_unwind(panic);
        }
    });
}

/// Replaces `/dev`, in the thread's namespace, by one with `null`, `urandom` and `net/tun` only:
/// without `kvm` and `vhost-net`.
pub fn bare_dev() {
    run("mount", &["-t", "tmpfs", "tmpfs", "/dev"]);
    node("/dev/null", 1, 3);
    node("/dev/urandom", 1, 9);
    fs::create_dir("/dev/net").expect("making /dev/net");
    node("/dev/net/tun", 10, 200);
}

/// Makes the node of a character device, for all to use.
pub fn node(path: &str, major: u64, minor: u64) {
    let device = stat::makedev(major, minor);
    stat::mknod(path, SFlag::S_IFCHR, Mode::empty(), device)
        .unwrap_or_else(|error| panic!("needs to make {path}: {error}"));
    fs::set_permissions(path, Permissions::from_mode(0o666)).expect("opening it to all");
}

/// Makes the tap `name`; needs [`apart`].
pub fn tap(name: &str, flags: &[&str]) {
    if !fs::exists("/dev/net/tun").is_ok_and(|there| there) {
        fs::create_dir_all("/dev/net").expect("making /dev/net");
        node("/dev/net/tun", 10, 200);
    }
    let mut arguments = vec!["tuntap", "add", "dev", name, "mode", "tap"];
    arguments.extend(flags);
    run("ip", &arguments);
}

/// Runs a command in the thread's namespaces.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments);
    succeed(command);
}

/// Runs a command that a test needs.
#[track_caller]
pub fn succeed(mut command: Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("needs {command:?}: {error}"));
    assert!(
        output.status.success(),
        "needs {command:?} to work: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
