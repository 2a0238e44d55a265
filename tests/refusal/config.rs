//! The config itself: its JSON, its names, its values.

use serde_json::json;

use super::{User, refused, refused_in, run, start};
use crate::support::config::{Config, GIB, MIB};
use crate::support::host::HugePages;
use crate::support::process;
use crate::support::scratch::Scratch;

#[test]
fn no_config_file() {
    let scratch = Scratch::new();
    let path = scratch.file("vm.json");
    let ended = start(process::binary(), &path, User::Us);
    super::assert_refused(
        &ended,
        &["config file", &path.display().to_string(), "No such file"],
    );
}

#[test]
fn no_json() {
    refused_in(
        &Scratch::new(),
        "{\n  \"cpus\": {,\n}",
        &["vm.json", "JSON", "line 2"],
    );
}

#[test]
fn unknown_field() {
    refused(
        json!({"memory": {"hugepage": true}}),
        &[
            "vm.json",
            "memory.hugepage:",
            "unknown field",
            "did you mean \"hugepages\"?",
        ],
    );
}

#[test]
fn unknown_field_in_a_list() {
    refused(
        json!({"net": [{"tap": "a"}, {"tap": "b", "num_queue": 2}]}),
        &[
            "net[1].num_queue:",
            "unknown field",
            "did you mean \"num_queues\"?",
        ],
    );
}

#[test]
fn unknown_field_like_no_other() {
    refused(
        json!({"xyzzy_plugh": 1}),
        &["xyzzy_plugh", "unknown field", "\"payload\""],
    );
}

#[test]
fn wrong_type() {
    refused(
        json!({"cpus": {"boot_vcpus": "two"}}),
        &["cpus.boot_vcpus:", "expected", "the string \"two\""],
    );
}

#[test]
fn wrong_type_deep_down() {
    refused(
        json!({"cpus": {"affinity": [{"vcpu": 0, "host_cpus": [0, true]}]}}),
        &["cpus.affinity[0].host_cpus[1]:", "expected", "true"],
    );
}

#[test]
fn unknown_word() {
    refused(
        json!({"serial": {"mode": "tty"}}),
        &["serial.mode:", "\"tty\"", "\"Tty\""],
    );
}

#[test]
fn all_problems_at_once() {
    refused(
        json!({"cpus": {"boot_vcpus": 0}, "memory": {"size": 1}, "watchdog": true}),
        &[
            "3 problems",
            "cpus.boot_vcpus: 0",
            "memory.size: 1",
            "watchdog: ",
        ],
    );
}

#[test]
fn no_vcpus() {
    refused(
        json!({"cpus": {"boot_vcpus": 0}}),
        &["cpus.boot_vcpus: 0 is too few", "1 to 64"],
    );
}

#[test]
fn too_many_vcpus() {
    refused(
        json!({"cpus": {"boot_vcpus": 65}}),
        &["cpus.boot_vcpus: 65 is too many", "1 to 64"],
    );
}

#[test]
fn a_topology_of_another_size() {
    let shape =
        json!({"threads_per_core": 2, "cores_per_die": 3, "dies_per_package": 1, "packages": 1});
    refused(
        json!({"cpus": {"boot_vcpus": 4, "topology": shape}}),
        &[
            "cpus.topology:",
            "6 vCPUs",
            "boot_vcpus is 4",
            "make them equal",
        ],
    );
}

#[test]
fn a_cpu_that_is_not_there() {
    refused(
        json!({"cpus": {"affinity": [{"vcpu": 0, "host_cpus": [0, 4095]}]}}),
        &["cpus.affinity[0].host_cpus:", "no CPU 4095", "online are "],
    );
}

#[test]
fn an_emulator_cpu_that_is_not_there() {
    refused(
        json!({"platform": {"emulator_cpus": [4095]}}),
        &["platform.emulator_cpus:", "no CPU 4095", "online are "],
    );
}

#[test]
fn too_few_huge_pages() {
    let pool = HugePages::take();
    let (total, available) = (HugePages::total(), pool.available());
    let pages = available + 8;
    refused(
        json!({"memory": {"size": pages * 2 * MIB, "hugepages": true, "hugepage_size": 2 * MIB}}),
        &[
            "memory.size:",
            &format!("{pages} huge pages of 2 MiB are needed"),
            &format!("of {total} in the pool /sys/kernel/mm/hugepages/hugepages-2048kB"),
            &format!("only {available} can be had"),
            &format!(
                "echo {} > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
                total + 8
            ),
        ],
    );
    assert_eq!(pool.available(), available);
}

#[test]
fn a_size_that_is_no_whole_number_of_pages() {
    refused(
        json!({"memory": {"size": 64 * MIB + 4096, "hugepages": true, "hugepage_size": 2 * MIB}}),
        &[
            "memory.size: 67112960 bytes",
            "2 MiB pages",
            "67108864 and 69206016",
        ],
    );
}

#[test]
fn a_size_that_is_no_whole_number_of_small_pages() {
    refused(
        json!({"memory": {"size": 64 * MIB + 1}}),
        &[
            "memory.size: 67108865 bytes",
            "4 KiB pages",
            "67108864 and 67112960",
        ],
    );
}

#[test]
fn a_page_size_that_is_none() {
    refused(
        json!({"memory": {"size": 64 * MIB, "hugepages": true, "hugepage_size": 4 * MIB}}),
        &[
            "memory.hugepage_size: 4194304 bytes",
            "2097152 (2 MiB)",
            "1073741824 (1 GiB)",
        ],
    );
}

#[test]
fn too_much_memory() {
    refused(
        json!({"memory": {"size": 1025 * GIB}}),
        &["memory.size:", "1 TiB"],
    );
}

#[test]
fn more_memory_than_the_host_lets_a_guest_have_is_told() {
    // The smallest machine there is: one page has no room for what a boot needs.
    refused(
        json!({"memory": {"size": 4096}}),
        &["guest memory", "give the guest"],
    );
}

#[test]
fn a_numa_node_that_is_not_there() {
    let zone = json!({"id": "a", "size": 64 * MIB, "host_numa_node": 77});
    refused(
        json!({"memory": {"size": null, "zones": [zone]}}),
        &["memory.zones[0].host_numa_node:", "no NUMA node 77"],
    );
}

#[test]
fn a_command_line_that_is_too_long() {
    let cmdline = "x".repeat(2048);
    refused(
        json!({"payload": {"cmdline": cmdline}}),
        &["payload.cmdline: 2048 bytes are too long", "2047"],
    );
}

#[test]
fn a_serial_file_in_a_folder_that_is_not_there() {
    refused(
        json!({"serial": {"mode": "File", "socket": null, "file": "/nonexistent/serial.log"}}),
        &["serial.file:", "/nonexistent is not there"],
    );
}

#[test]
fn a_serial_socket_in_use() {
    let scratch = Scratch::new();
    let socket = scratch.file("serial.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("listening");
    let config = super::with_socket(&scratch, Config::new("poweroff"));
    let ended = run(&scratch, &config.to_json(), User::Us);
    let path = socket.display().to_string();
    super::assert_refused(&ended, &[&path, "another process", "name another path"]);
}

#[test]
fn what_is_known_and_not_done_is_refused() {
    refused(
        json!({"watchdog": true}),
        &[
            "watchdog: a watchdog is not supported",
            "leave the field out",
        ],
    );
}
