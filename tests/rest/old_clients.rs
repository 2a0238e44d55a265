//! Whole life cycles with the bodies that other clients send, as they send them.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::support::config::{Image, MIB};
use crate::support::daemon::Daemon;
use crate::support::host;
use crate::support::process;
use crate::support::scratch::Scratch;

/// All fields with their defaults, options as `null`, and keys that only
/// another version knows.
fn whole_config(daemon: &Daemon, cmdline: &str) -> Value {
    json!({
        "cpus": {
            "boot_vcpus": 1, "max_vcpus": 1, "topology": null, "kvm_hyperv": false,
            "max_phys_bits": 46, "affinity": null, "features": {"amx": false},
            "nested": true, "core_scheduling": "Vm", "profile": "Host",
        },
        "memory": {
            "size": 64 * MIB, "mergeable": false, "hotplug_method": "Acpi",
            "hotplug_size": null, "hotplugged_size": null, "shared": false,
            "hugepages": false, "hugepage_size": null, "prefault": false,
            "reserve": false, "zones": null, "thp": true,
        },
        "payload": {
            "firmware": null, "kernel": Image::Pvh.path(), "cmdline": cmdline,
            "initramfs": null, "igvm": null, "host_data": null, "mrconfigid": null,
        },
        "rate_limit_groups": null, "disks": null, "net": null,
        "rng": {"src": "/dev/urandom", "iommu": false},
        "balloon": null, "generic_vhost_user": null, "fs": null, "pmem": null,
        "serial": {
            "file": daemon.scratch.file("serial.log"), "mode": "File",
            "iommu": false, "socket": null,
        },
        "console": {"file": null, "mode": "Off", "iommu": false, "socket": null},
        "debug_console": {"file": null, "mode": "Off", "iobase": 233},
        "devices": null, "user_devices": null, "vdpa": null, "vsock": null,
        "pvpanic": false, "iommu": false, "numa": null, "watchdog": false,
        "pci_segments": null, "platform": null, "tpm": null,
        "landlock_enable": false, "landlock_rules": null, "preserved_fds": null,
        "disk_io_uring": true, "a_key_of_tomorrow": {"deep": [1, 2]},
    })
}

#[test]
fn the_peers_client() {
    let mut daemon = Daemon::start();
    let config = whole_config(&daemon, "beat_every=10000").to_string();
    daemon.put_json("vm.create", &config);
    let add_net = json!({
        "pci_segment": 0, "tap": "", "mac": "52:54:00:12:34:56", "num_queues": 4,
        "queue_size": 256, "vhost_user": true, "vhost_mode": "Server",
        "vhost_socket": daemon.scratch.file("vhost.sock"), "id": "n0",
        "ip": null, "mask": null, "mtu": null, "fds": null,
        "offload_tso": true, "offload_ufo": true, "offload_csum": true,
    });
    // What it is refused for is its own affair; that it is understood is ours.
    if let Err(error) = daemon.try_put("vm.add-net", &add_net.to_string()) {
        assert!(!error.to_string().contains("no JSON"), "{error}");
    } else {
        daemon.put_json("vm.remove-device", r#"{"id": "n0"}"#);
    }
    daemon.put("vm.boot");
    daemon.wait_line("boot", 1);
    daemon.put("vm.pause");
    daemon.put("vm.resume");
    let send = json!({
        "destination_url": format!("unix:{}", daemon.scratch.file("no.sock").display()),
        "local": false, "preserve_source": false, "downtime_ms": 300, "timeout_s": 3600,
        "timeout_strategy": "Cancel", "connections": 1, "tls_dir": null,
        "memory_mode": "Precopy",
    });
    // Taken, and it fails since nobody receives there; the guest stays.
    daemon.put_json("vm.send-migration", &send.to_string());
    daemon.wait_until("the migration has failed", |daemon| {
        let progress = daemon.get("vm.migration-progress").expect("progress");
        progress["status"] == "failed"
    });
    assert_eq!(daemon.state(), "Running");
    daemon.put("vm.reboot");
    daemon.put("vm.shutdown");
    daemon.put("vm.delete");
    daemon.shut_down();
}

/// Waits for a guest: a file or FIFO of events, read without waiting.
fn events(fifo: &mut File) -> Vec<String> {
    let mut text = String::new();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = fifo.read(&mut chunk) {
        text.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
    serde_json::Deserializer::from_str(&text)
        .into_iter::<Value>()
        .map(|event| {
            let event = event.expect("an event");
            assert!(event["timestamp"]["secs"].is_u64() && event["timestamp"]["nanos"].is_u64());
            let [source, name] = ["source", "event"].map(|key| event[key].as_str().unwrap_or("?"));
            format!("{source}:{name}")
        })
        .collect()
}

/// libvirt: a socket that listens already, a FIFO for events, Pty, thread names.
#[test]
fn libvirt() {
    let scratch = Scratch::new();
    let listener = UnixListener::bind(scratch.file("api.sock")).expect("listening");
    let fifo = scratch.file("events");
    nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).expect("making a FIFO");
    let mut fifo_end = File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(&fifo)
        .expect("opening the FIFO");
    let fd = listener.as_raw_fd();
    let mut command = Command::new(process::binary());
    command
        .arg("--api-socket")
        .arg(format!("fd={fd}"))
        .arg("--event-monitor")
        .arg(format!("path={}", fifo.display()));
    // SAFETY: between fork and exec, only a system call is made; the descriptor
    // is open until the command was started.
    unsafe {
        command.pre_exec(move || match nix::libc::fcntl(fd, nix::libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let mut daemon = Daemon::spawn(scratch, command);
    drop(listener);
    let create = json!({
        "serial": {"mode": "Pty"},
        "console": {"mode": "Off"},
        "cpus": {"boot_vcpus": 2, "max_vcpus": 2},
        "memory": {"size": 64 * MIB},
        "payload": {"kernel": Image::Pvh.path(), "cmdline": "smp=2 beat_every=10000"},
    });
    daemon.put_json("vm.create", &create.to_string());
    daemon.put("vm.boot");
    let info = daemon.get("vm.info").expect("info");
    let pty = info["config"]["serial"]["file"]
        .as_str()
        .expect("the terminal");
    let mut pty = File::open(pty).expect("opening the terminal");
    pty.read_exact(&mut [0; 1]).expect("the guest speaks");
    let threads = host::tasks(daemon.process.pid());
    let vcpus = threads.iter().filter(|task| {
        task.name
            .strip_prefix("vcpu")
            .is_some_and(|n| n.parse::<u32>().is_ok())
    });
    assert_eq!(vcpus.count(), 2, "{threads:?}");
    assert!(!threads.iter().any(|task| task.name.starts_with("_")));
    daemon.put("vm.pause");
    daemon.put("vm.resume");
    daemon.put("vm.reboot");
    daemon.put("vm.shutdown");
    // The socket is whose process it came from.
    daemon.process.signal(nix::sys::signal::Signal::SIGTERM);
    let Daemon {
        process, scratch, ..
    } = daemon;
    let ended = process.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let told = events(&mut fifo_end);
    let wanted = [
        "vm:booting",
        "vm:booted",
        "vm:pausing",
        "vm:paused",
        "vm:resuming",
        "vm:resumed",
        "vm:rebooting",
        "vm:rebooted",
        "vm:shutdown",
    ];
    let told: Vec<_> = told
        .iter()
        .filter(|event| event.starts_with("vm:"))
        .collect();
    assert_eq!(told, wanted);
    drop(scratch);
}
