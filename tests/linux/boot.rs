//! How Linux starts and ends.

use godwit_lab::seam;

use crate::support::linux::{self, Guest, LinuxVm};
use crate::support::scratch::Scratch;

#[test]
fn an_elf_kernel_boots_by_pvh_and_powers_off() {
    let config = linux::task("godwit.task=none");
    let ended = LinuxVm::start(Scratch::new(), config, &[]).wait_code(0);
    assert!(ended.ended.stdout.contains("godwit: up"));
}

#[test]
fn a_reboot_starts_the_kernel_again() {
    let config = linux::task("godwit.task=none godwit.then=reboot");
    let mut vm = LinuxVm::start(Scratch::new(), config, &[]);
    vm.wait_for("godwit: done none");
    vm.wait_for("godwit: done none 127\r\n");
    // Again: the console of the second boot follows that of the first.
    let first = vm.console().len();
    while !vm
        .console()
        .get(first..)
        .is_some_and(|c| c.contains("godwit: up"))
    {
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(vm.console().len() < 1 << 20, "{}", vm.console());
    }
}

#[test]
fn a_bzimage_boots_and_its_reboot_ends_the_process_when_asked() {
    let _ = linux::task("");
    let image = seam::image();
    let words = "godwit.task=none godwit.then=reboot";
    let config = linux::config(&image.bzimage(), &image.linux(), words);
    LinuxVm::start(Scratch::new(), config, &["--no-reboot"]).wait_code(3);
}
