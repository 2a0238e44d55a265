//! Ways to boot, and what the guest is handed.

use serde_json::json;

use crate::support::config::{Config, Image, MIB};
use crate::support::scratch::Scratch;
use crate::support::vm::{TestVm, run_to_power_off};

#[track_caller]
fn boots_by(image: Image, protocol: &str) {
    let output = run_to_power_off(Config::booting(image, "facts poweroff"));
    let boot = output.one("boot");
    assert_eq!(boot.field("protocol"), protocol);
    assert_eq!(boot.number("initramfs_size"), 0);
    // The tables are where the loader said, not only where a scan finds them.
    assert_eq!(output.one("rsdp").field("from"), "loader");
    assert_eq!(output.one("end").field("by"), "poweroff");
}

#[test]
fn boots_by_pvh() {
    boots_by(Image::Pvh, "pvh");
}

#[test]
fn boots_an_elf_by_the_64_bit_linux_protocol() {
    boots_by(Image::Linux, "linux64");
}

#[test]
fn boots_a_bzimage_by_the_64_bit_linux_protocol() {
    boots_by(Image::Bz, "linux64");
}

#[track_caller]
fn hands_over_the_command_line(image: Image) {
    let cmdline = "poweroff one=1  two=\"a,b\" --three /etc/x=y~ ";
    let output = TestVm::start(Config::booting(image, cmdline))
        .wait()
        .assert_code(0)
        .output;
    assert_eq!(output.one("cmdline").text, format!("@cmdline {cmdline}"));
}

#[test]
fn hands_over_the_command_line_by_pvh() {
    hands_over_the_command_line(Image::Pvh);
}

#[test]
fn hands_over_the_command_line_by_the_linux_protocol() {
    hands_over_the_command_line(Image::Bz);
}

#[test]
fn a_machine_without_a_command_line_gets_an_empty_one() {
    let config = Config::new("").with(json!({"payload": {"cmdline": null}}));
    let mut vm = TestVm::start(config);
    assert_eq!(vm.wait_line("cmdline", 1).text, "@cmdline ");
    // The payload's default.
    vm.wait_until(|vm| vm.output().beats().starts_with("abcdef").then_some(()));
    vm.terminate().assert_code(0);
}

/// Not a multiple of eight bytes, so that the tail counts; more than a few pages.
fn initramfs() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..200_003)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// As the payload's README defines it.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let rest = words.remainder().iter().map(|&byte| u64::from(byte));
    words
        .map(|word| word.iter().rev().fold(0, |sum, &b| sum << 8 | u64::from(b)))
        .chain(rest)
        .fold(0_u64, |sum: u64, word| {
            sum.rotate_left(1).wrapping_add(word)
        })
}

#[track_caller]
fn loads_the_initramfs(image: Image) {
    let scratch = Scratch::new();
    let bytes = initramfs();
    let path = scratch.write("initramfs", &bytes);
    let config =
        Config::booting(image, "facts poweroff").with(json!({"payload": {"initramfs": path}}));
    let ended = TestVm::start_in(scratch, config, &[]).wait().assert_code(0);
    ended.output.assert_sound();
    let line = ended.output.one("initramfs");
    assert_eq!(line.number("size"), 200_003);
    assert_eq!(line.number("sum"), sum(&bytes));
    let first: String = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
    assert_eq!(line.field("first"), first);
    let base = line.number("base");
    assert!(base.is_multiple_of(4096) && base + 200_003 <= 64 * MIB);
    assert_eq!(ended.output.one("boot").number("initramfs"), base);
}

#[test]
fn loads_the_initramfs_by_pvh() {
    loads_the_initramfs(Image::Pvh);
}

#[test]
fn loads_the_initramfs_by_the_linux_protocol() {
    loads_the_initramfs(Image::Linux);
}

#[test]
fn loads_the_initramfs_for_a_bzimage() {
    loads_the_initramfs(Image::Bz);
}
