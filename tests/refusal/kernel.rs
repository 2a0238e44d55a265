//! Kernels and initramfs.

use std::fs;

use serde_json::json;

use super::{refused, refused_in, with_socket};
use crate::support::config::{Config, Image, MIB};
use crate::support::scratch::Scratch;

/// Boots a kernel of these bytes.
#[track_caller]
fn kernel_refused(bytes: impl AsRef<[u8]>, words: &[&str]) {
    let scratch = Scratch::new();
    let path = scratch.write("kernel", bytes);
    let config =
        with_socket(&scratch, Config::new("poweroff")).with(json!({"payload": {"kernel": path}}));
    let shown = path.display().to_string();
    let words: Vec<_> = words.iter().copied().chain([shown.as_str()]).collect();
    refused_in(&scratch, &config.to_json(), &words);
}

/// The first `part` of `whole` of an image.
fn truncated(image: Image, part: usize, whole: usize) -> Vec<u8> {
    let mut bytes = fs::read(image.path()).expect("reading the payload");
    bytes.truncate(bytes.len() * part / whole);
    bytes
}

#[test]
fn no_kernel_named() {
    refused(
        json!({"payload": {"kernel": null}}),
        &["payload.kernel: missing", "bzImage", "ELF"],
    );
}

#[test]
fn missing_kernel() {
    refused(
        json!({"payload": {"kernel": "/nonexistent/vmlinuz"}}),
        &["payload.kernel: /nonexistent/vmlinuz is not there"],
    );
}

#[test]
fn missing_kernel_by_a_relative_path() {
    let folder = std::env::current_dir().expect("the current folder");
    refused(
        json!({"payload": {"kernel": "no/vmlinuz"}}),
        &[
            "payload.kernel: no/vmlinuz is not there",
            &format!("seen from {}", folder.display()),
        ],
    );
}

#[test]
fn kernel_that_is_a_folder() {
    refused(
        json!({"payload": {"kernel": "/"}}),
        &["payload.kernel: / is a directory, not a file"],
    );
}

#[test]
fn empty_kernel() {
    kernel_refused("", &["payload.kernel:", "is empty"]);
}

#[test]
fn kernel_that_is_a_text() {
    kernel_refused(
        "This is no kernel.\n".repeat(100),
        &[
            "Could not load the guest's kernel",
            "accepted are",
            "bzImage",
            "ELF",
        ],
    );
}

#[test]
fn kernel_that_is_a_few_bytes() {
    kernel_refused("MZ", &["Could not load the guest's kernel", "accepted are"]);
}

#[test]
fn truncated_bzimage() {
    kernel_refused(
        truncated(Image::Bz, 1, 2),
        &[
            "cannot boot kernel",
            "truncated:",
            "bytes of file, there are",
        ],
    );
}

#[test]
fn bzimage_truncated_by_one_byte() {
    let mut bytes = truncated(Image::Bz, 1, 1);
    bytes.pop();
    kernel_refused(bytes, &["cannot boot kernel", "truncated:"]);
}

#[test]
fn truncated_elf() {
    kernel_refused(
        truncated(Image::Linux, 1, 2),
        &[
            "cannot boot kernel",
            "truncated:",
            "bytes of file, there are",
        ],
    );
}

#[test]
fn truncated_elf_with_a_pvh_note() {
    kernel_refused(
        truncated(Image::Pvh, 1, 2),
        &["cannot boot kernel", "truncated:"],
    );
}

#[test]
fn elf_of_another_processor() {
    let mut bytes = truncated(Image::Linux, 1, 1);
    // e_machine: AArch64.
    bytes[18] = 183;
    kernel_refused(bytes, &["cannot boot kernel", "0xb7"]);
}

#[test]
fn kernel_that_memory_does_not_hold() {
    refused(
        json!({"memory": {"size": MIB}}),
        &[
            "cannot boot kernel",
            "needs guest memory",
            "give the guest more memory",
        ],
    );
}

#[test]
fn missing_initramfs() {
    refused(
        json!({"payload": {"initramfs": "/nonexistent/initrd"}}),
        &["payload.initramfs: /nonexistent/initrd is not there"],
    );
}

#[test]
fn initramfs_larger_than_memory() {
    let scratch = Scratch::new();
    let path = scratch.file("initramfs");
    let file = fs::File::create(&path).expect("making the initramfs");
    file.set_len(65 * MIB).expect("its size");
    let config = with_socket(&scratch, Config::new("poweroff"))
        .with(json!({"payload": {"initramfs": path}}));
    let shown = path.display().to_string();
    refused_in(
        &scratch,
        &config.to_json(),
        &[
            &shown,
            "68157440 bytes",
            "room for",
            "give the guest at least",
            "smaller initramfs",
        ],
    );
}
