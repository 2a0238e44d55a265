//! What an integration test and the lab agree on.
//!
//! The test binary of package `godwit` (target `integration`, `tests/main.rs`) is an ordinary
//! libtest binary. `cargo lab test` runs each test in a process of its own, directly or in the
//! outer machine, with these variables:
//!
//! | variable | value |
//! |---|---|
//! | `GODWIT_BIN` | the `godwit` to test |
//! | `GODWIT_IMAGE` | folder of the guest image, see [`crate::image`] |
//! | `GODWIT_PAYLOAD` | folder of the payload images, see [`crate::payload`] |
//! | `GODWIT_OUT` | folder for what outlives the test: logs, measurements |
//! | `GODWIT_RUNNER` | `direct` or `lab` |
//! | `TMPDIR` | scratch space; in memory in the lab |
//!
//! Tests below the modules `linux` and `dpdk` run where Linux guests run, those below `isolated` in an
//! outer machine with an isolated CPU, all others where payload guests run. A test says what it needs by [`require`], which fails the test where that is
//! missing: nothing is skipped in silence.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::doctor::{MachineKind, openable};
use crate::image::{Image, Variant};
use crate::workspace;

/// Where a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where payload guests run.
    Payload,
    /// Where Linux guests run.
    Linux,
    /// In an outer machine with an isolated CPU.
    Isolated,
}

/// Where the test `name` runs: its module says.
pub fn place(name: &str) -> Place {
    match name.split("::").next() {
        Some("linux" | "dpdk") => Place::Linux,
        Some("isolated") => Place::Isolated,
        _ => Place::Payload,
    }
}

/// Something a test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// `/dev/kvm`, of any kind.
    Kvm,
    /// A KVM that runs guest code on the CPU.
    HardwareVirtualization,
    /// `/dev/vhost-net`.
    VhostNet,
    /// `/dev/net/tun`, and the right to make interfaces.
    Tap,
    /// So many free huge pages of 2 MiB.
    HugePages2M(u64),
    /// So many free huge pages of 1 GiB.
    HugePages1G(u64),
    /// The guest image.
    Image,
    /// That with a PREEMPT_RT kernel, where example configs have it.
    RtImage,
}

impl Need {
    /// Whether this machine has it, else what is missing.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn check(self) -> Result<(), String> {
        let (there, what) = match self {
            Self::Kvm => (
                MachineKind::detect() != MachineKind::NoKvm,
                "/dev/kvm".to_owned(),
            ),
            Self::HardwareVirtualization => (
                MachineKind::detect() == MachineKind::HardwareVirtualization,
                "hardware virtualization (an svm or vmx flag, and /dev/kvm)".to_owned(),
            ),
            Self::VhostNet => (openable("/dev/vhost-net"), "/dev/vhost-net".to_owned()),
            Self::Tap => (
                openable("/dev/net/tun") && nix::unistd::geteuid().is_root(),
                "/dev/net/tun as root".to_owned(),
            ),
            Self::HugePages2M(pages) => huge_pages("2048kB", "2 MiB", pages),
            Self::HugePages1G(pages) => huge_pages("1048576kB", "1 GiB", pages),
            Self::Image => (
                Image::at(&image_folder()).is_some(),
                format!("the guest image in {}", image_folder().display()),
            ),
            Self::RtImage => {
                let folder = workspace::lab().join(Variant::Rt.folder());
                let what = format!("a PREEMPT_RT image in {}", folder.display());
                (Image::at(&folder).is_some(), what)
            }
        };
        if there { Ok(()) } else { Err(what) }
    }
}

fn huge_pages(folder: &str, size: &str, pages: u64) -> (bool, String) {
    let path = format!("/sys/kernel/mm/hugepages/hugepages-{folder}/free_hugepages");
    let free = fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    (
        free >= pages,
        format!("{pages} free huge pages of {size} ({free} are free)"),
    )
}

/// Fails the test unless this machine has all of `needs`.
///
/// # Panics
/// When something is missing; the message names all of it and the way to run the test.
pub fn require(needs: &[Need]) {
    let missing: Vec<String> = needs.iter().filter_map(|need| need.check().err()).collect();
    assert!(
        missing.is_empty(),
        "this test needs {}; run `cargo lab test`",
        missing.join(", ")
    );
}

/// Folder of the guest image: `GODWIT_IMAGE`, or `target/lab/image`.
pub fn image_folder() -> PathBuf {
    folder("GODWIT_IMAGE", "image")
}

/// Folder of the payload images: `GODWIT_PAYLOAD`, or `target/lab/payload`.
pub fn payload_folder() -> PathBuf {
    folder("GODWIT_PAYLOAD", "payload")
}

/// Folder for what outlives a test: `GODWIT_OUT`, or `target/lab/out`.
pub fn out_folder() -> PathBuf {
    folder("GODWIT_OUT", "out")
}

/// The guest image.
///
/// # Panics
/// When it is not built; the message names the command that builds it.
pub fn image() -> Image {
    let folder = image_folder();
    match Image::at(&folder) {
        Some(image) => image,
        None => panic!(
            "no guest image in {}; run `cargo lab image`",
            folder.display()
        ),
    }
}

/// The `godwit` to test: `GODWIT_BIN`, or `built`, which a test of package `godwit` gets from
/// `env!("CARGO_BIN_EXE_godwit")`.
pub fn godwit(built: &str) -> PathBuf {
    env::var_os("GODWIT_BIN").map_or_else(|| Path::new(built).to_owned(), PathBuf::from)
}

fn folder(variable: &str, name: &str) -> PathBuf {
    env::var_os(variable).map_or_else(|| workspace::lab().join(name), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_say_where_a_test_runs() {
        assert_eq!(place("dpdk::every_frame_comes_back"), Place::Linux);
        assert_eq!(place("linux::poweroff::exit_code"), Place::Linux);
        assert_eq!(place("isolated::a_polling_guest"), Place::Isolated);
        assert_eq!(place("payload::linux_protocol"), Place::Payload);
        assert_eq!(place("refusals::missing_kernel"), Place::Payload);
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = Need::HugePages2M(u64::MAX).check().unwrap_err();
        assert!(
            text.contains("2 MiB") && text.contains("are free"),
            "{text}"
        );
    }
}
