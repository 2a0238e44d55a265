//! Memory: where it lies, what it holds, and what it costs the host.

use serde_json::{Value, json};

use crate::support::config::{Config, GIB, MIB};
use crate::support::host::{HugePages, status_bytes};
use crate::support::output::Output;
use crate::support::vm::{TestVm, run_to_power_off};

/// Usable memory above 1 MiB as `[base, size]`.
fn usable(output: &Output) -> Vec<[u64; 2]> {
    output
        .all("memory")
        .iter()
        .filter(|line| line.number("type") == 1 && line.number("base") >= MIB)
        .map(|line| [line.number("base"), line.number("size")])
        .collect()
}

#[track_caller]
fn assert_verified(output: &Output, pages: u64) {
    assert_eq!(output.one("filled").number("pages"), pages);
    let verified = output.all("verified");
    assert_eq!(verified.len(), 2, "{}", output.text());
    for line in verified {
        assert!(line.number("verified") >= pages, "{}", line.text);
        assert_eq!(line.number("mismatches"), 0, "{}", line.text);
    }
}

#[test]
fn what_is_written_is_read_again() {
    let output = run_to_power_off(Config::new("fill=1M seed=7 verify=once beats=3 poweroff"));
    assert_verified(&output, 256);
}

/// 140 pages are written anew, of 24: five times over all of them, and once more over 20.
#[test]
fn what_is_dirtied_is_read_again_in_either_order() {
    for order in ["", "sweep "] {
        for rate in ["", "rate=100000 "] {
            let words = "fill=256K over=96K dirty=7 words verify=once beats=20 poweroff";
            let output = run_to_power_off(Config::new(&format!("{order}{rate}{words}")));
            let verified = output.all("verified");
            let last = verified.last().expect("it verifies once more");
            assert_eq!(last.number("mismatches"), 0, "{}", last.text);
            match rate {
                "" => assert_eq!(last.number("dirtied"), 140, "{}", last.text),
                _ => assert!((1..=140).contains(&last.number("dirtied")), "{}", last.text),
            }
        }
    }
}

#[test]
fn small_memory_lies_below_the_hole() {
    let output = run_to_power_off(Config::new("facts poweroff"));
    assert_eq!(usable(&output), [[MIB, 63 * MIB]]);
}

/// 5 GiB, of which the host gives only what is touched; the pattern spans the hole.
#[test]
fn memory_goes_round_the_hole() {
    let cmdline = format!(
        "facts at={} fill=512K verify=once beats=1 poweroff",
        3 * GIB - 256 * 1024
    );
    let output = run_to_power_off(Config::new(&cmdline).with(json!({"memory": {"size": 5 * GIB}})));
    assert_eq!(
        usable(&output),
        [[MIB, 3 * GIB - MIB], [4 * GIB, 2 * GIB]],
        "{}",
        output.text()
    );
    assert_verified(&output, 128);
    assert_eq!(output.one("filled").number("extents"), 2);
}

#[test]
fn the_last_page_of_memory_is_there() {
    let cmdline = format!("at={} fill=4K verify=once beats=1 poweroff", 6 * GIB - 4096);
    let output = run_to_power_off(Config::new(&cmdline).with(json!({"memory": {"size": 5 * GIB}})));
    assert_eq!(output.one("filled").number("base"), 6 * GIB - 4096);
    assert_verified(&output, 1);
}

#[test]
fn zones_make_one_memory() {
    let zone = |id: &str, size: u64| json!({"id": id, "size": size});
    let zones = json!([zone("low", 32 * MIB), zone("high", 64 * MIB)]);
    let cmdline = "facts at=31M fill=2M verify=once beats=1 poweroff";
    let output = run_to_power_off(
        Config::new(cmdline).with(json!({"memory": {"size": null, "zones": zones}})),
    );
    let total: u64 = usable(&output).iter().map(|[_, size]| size).sum();
    assert_eq!(total, 95 * MIB);
    assert_verified(&output, 512);
}

/// What a reset leaves in memory does not matter, but the memory itself must be there again.
#[test]
fn memory_is_there_after_a_reset() {
    let mut vm = TestVm::start(Config::new("fill=256K verify=once beats=1 reset"));
    vm.wait_line("end", 2);
    let output = vm.terminate().assert_code(0).output;
    output.assert_sound();
    assert!(output.all("filled").len() >= 2);
}

/// A guest of 256 MiB that halts, as `memory` says.
#[track_caller]
fn halted(memory: Value) -> TestVm {
    let config = Config::new("halt").with(json!({"memory": {"size": 256 * MIB}}));
    let mut vm = TestVm::start(config.with(json!({ "memory": memory })));
    vm.wait_line("end", 1);
    vm
}

#[test]
fn untouched_memory_costs_nothing() {
    let vm = halted(json!({}));
    let (shared, all) = (
        status_bytes(vm.pid(), "RssShmem"),
        status_bytes(vm.pid(), "VmRSS"),
    );
    assert!(shared < 4 * MIB, "{shared} bytes of guest memory");
    assert!(all < 24 * MIB, "{all} bytes");
    assert_eq!(status_bytes(vm.pid(), "VmLck"), 0);
    vm.terminate().assert_code(0);
}

#[test]
fn prefaulted_memory_is_all_there() {
    let vm = halted(json!({"prefault": true}));
    let shared = status_bytes(vm.pid(), "RssShmem");
    assert!(shared >= 256 * MIB, "{shared} bytes");
    vm.terminate().assert_code(0);
}

#[test]
fn locked_memory_is_locked_and_there() {
    let vm = halted(json!({"lock": true}));
    let locked = status_bytes(vm.pid(), "VmLck");
    assert!(locked >= 256 * MIB, "{locked} bytes");
    assert!(status_bytes(vm.pid(), "RssShmem") >= 256 * MIB);
    vm.terminate().assert_code(0);
}

const PAGES: u64 = 16;

fn on_huge_pages(cmdline: &str) -> Config {
    Config::new(cmdline).with(json!({"memory": {
        "size": PAGES * 2 * MIB, "hugepages": true, "hugepage_size": 2 * MIB,
    }}))
}

#[test]
fn huge_pages_are_used_before_the_guest_runs_and_given_back() {
    let pool = HugePages::reserve(PAGES);
    let (available, used) = (pool.available(), pool.used());
    let mut vm = TestVm::start(on_huge_pages("fill=64K at=24M verify=once beats=1 halt"));
    vm.wait_line("boot", 1);
    assert_eq!(pool.used(), used + PAGES);
    assert_eq!(pool.available(), available - PAGES);
    assert_eq!(status_bytes(vm.pid(), "HugetlbPages"), PAGES * 2 * MIB);
    assert!(status_bytes(vm.pid(), "RssShmem") < MIB);
    vm.wait_line("end", 1);
    let output = vm.terminate().assert_code(0).output;
    output.assert_sound();
    assert_verified(&output, 16);
    pool.wait_for_available(available);
}

#[test]
fn huge_pages_without_prefault_are_reserved() {
    let pool = HugePages::reserve(PAGES);
    let (available, used) = (pool.available(), pool.used());
    let config = on_huge_pages("halt").with(json!({"memory": {"prefault": false}}));
    let mut vm = TestVm::start(config);
    vm.wait_line("end", 1);
    // Some pages hold the payload and its tables.
    assert!(pool.used() < used + PAGES);
    assert_eq!(pool.available(), available - PAGES);
    vm.terminate().assert_code(0);
    pool.wait_for_available(available);
}

#[test]
fn a_killed_process_gives_huge_pages_back() {
    let pool = HugePages::reserve(PAGES);
    let available = pool.available();
    let mut vm = TestVm::start(on_huge_pages("beat_every=1000"));
    vm.wait_line("boot", 1);
    vm.process.signal(nix::sys::signal::Signal::SIGKILL);
    let ended = vm.wait();
    assert_eq!(ended.process.signal, Some(libc::SIGKILL));
    pool.wait_for_available(available);
}

#[test]
fn a_reset_keeps_the_huge_pages() {
    let pool = HugePages::reserve(PAGES);
    let (available, used) = (pool.available(), pool.used());
    let mut vm = TestVm::start(on_huge_pages("beats=3 reset"));
    vm.wait_line("boot", 3);
    assert_eq!(pool.used(), used + PAGES);
    vm.terminate().assert_code(0);
    pool.wait_for_available(available);
}
