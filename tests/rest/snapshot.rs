//! A guest in a folder: written, found whole again, and refused when it is not.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::support::config::{Config, MIB};
use crate::support::daemon::Daemon;
use crate::support::output::Output;
use crate::support::process;
use crate::support::scratch::Scratch;

/// Where a guest's serial port and its snapshot outlive the process.
pub(super) struct Shelf(pub(super) Scratch);

impl Shelf {
    pub(super) fn new() -> Self {
        Self(Scratch::new())
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.0.file("snapshot")
    }

    pub(super) fn output(&self) -> Output {
        Output::new(&fs::read(self.0.file("serial.log")).unwrap_or_default())
    }

    pub(super) fn count(&self, topic: &str) -> usize {
        self.output().all(topic).len()
    }

    pub(super) fn config(&self, cmdline: &str) -> Config {
        let serial = self.0.file("serial.log");
        Config::new(cmdline).with(json!({"serial": {"mode": "File", "file": serial}}))
    }

    pub(super) fn snapshot(&self, daemon: &mut Daemon) {
        let url = format!("file://{}", self.folder().display());
        daemon.put_json("vm.snapshot", &json!({"destination_url": url}).to_string());
    }

    pub(super) fn restore_body(&self, more: serde_json::Value) -> String {
        Self::body(&self.folder(), more)
    }

    pub(super) fn body(folder: &Path, more: serde_json::Value) -> String {
        let url = format!("file://{}", folder.display());
        let mut body = json!({"source_url": url});
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        body.to_string()
    }

    /// A paused guest, whose memory is its own judge, is put here.
    pub(super) fn filled(cmdline: &str) -> Self {
        let shelf = Self::new();
        let mut daemon = Daemon::start();
        daemon.put_json("vm.create", &shelf.config(cmdline).to_json());
        daemon.put("vm.boot");
        daemon.wait_until("the guest has filled its memory", |_| {
            shelf.count("filled") == 1
        });
        daemon.put("vm.pause");
        shelf.snapshot(&mut daemon);
        assert_eq!(daemon.state(), "Paused");
        daemon.shut_down();
        shelf
    }
}

/// Each page is written anew in turn, and compared in turn.
pub(super) const JUDGE: &str = "fill=2M verify pages=16 dirty=4 beat_every=1000";

#[track_caller]
fn assert_snapshot(folder: &Path, size: u64, filled: u64) {
    let mut names: Vec<_> = fs::read_dir(folder)
        .expect("the snapshot")
        .map(|entry| entry.expect("a file of it").file_name())
        .collect();
    names.sort();
    let wanted = ["config.json", "machine.bin", "memory.bin", "state.bin"];
    assert_eq!(names, wanted);
    let memory = fs::metadata(folder.join("memory.bin")).expect("its memory");
    assert_eq!(memory.len(), size);
    let allocated = memory.blocks() * 512;
    // What the guest never wrote takes no room.
    assert!(
        allocated >= filled && allocated < filled + 8 * MIB,
        "{allocated} bytes are allocated"
    );
    let config = fs::read(folder.join("config.json")).expect("its config");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    assert_eq!(config["memory"]["size"], size);
}

#[test]
fn a_guest_goes_on_in_another_process_from_its_snapshot() {
    let shelf = Shelf::filled(JUDGE);
    assert_snapshot(&shelf.folder(), 64 * MIB, 2 * MIB);
    let (boots, passes) = (shelf.count("boot"), shelf.count("pass"));
    let before = shelf.output().beats().len();
    let mut daemon = Daemon::start();
    daemon.put_json("vm.restore", &shelf.restore_body(json!({"resume": true})));
    assert_eq!(daemon.state(), "Running");
    // All of its memory is compared twice, and it goes on writing.
    daemon.wait_until("compares its memory", |_| shelf.count("pass") >= passes + 2);
    daemon.wait_until("beats", |_| shelf.output().beats().len() > before);
    let output = shelf.output();
    output.assert_sound();
    assert_eq!(output.all("boot").len(), boots, "it was booted anew");
    assert_gapless(&output.beats());
    let info = daemon.get("vm.info").expect("info");
    assert_eq!(info["memory_actual_size"], 64 * MIB);
    // What came from a folder is a machine like any other.
    daemon.put("vm.reboot");
    // A reset comes in the middle of a line of beats.
    daemon.wait_until("boots", |_| {
        shelf.output().text().matches("@boot ").count() > boots
    });
    daemon.shut_down();
}

/// One byte follows the other: `a` to `z` in turn.
#[track_caller]
fn assert_gapless(beats: &str) {
    for (at, pair) in beats.as_bytes().windows(2).enumerate() {
        let next = if pair[0] == b'z' { b'a' } else { pair[0] + 1 };
        assert_eq!(pair[1], next, "at {at} of {beats}");
    }
}

/// Without `resume` it waits; the snapshot can be restored again, and written again
/// elsewhere.
#[test]
fn a_restored_guest_waits_until_it_is_resumed() {
    let shelf = Shelf::filled(JUDGE);
    let before = shelf.output().beats().len();
    let mut daemon = Daemon::start();
    for _ in 0..2 {
        daemon.put_json("vm.restore", &shelf.restore_body(json!({})));
        assert_eq!(daemon.state(), "Paused");
        assert_eq!(shelf.output().beats().len(), before, "it runs");
        daemon.put("vm.delete");
    }
    daemon.put_json(
        "vm.restore",
        &shelf.restore_body(json!({"resume": false, "prefault": true})),
    );
    let (status, chain) = daemon.refused(
        "vm.snapshot",
        &json!({"destination_url": format!("file://{}", shelf.folder().display())}).to_string(),
    );
    assert_eq!(status, 500);
    assert!(
        chain.join(": ").contains("holds a snapshot already"),
        "{chain:?}"
    );
    let second = shelf.0.file("second");
    let url = format!("file://{}", second.display());
    daemon.put_json("vm.snapshot", &json!({"destination_url": url}).to_string());
    let content = |folder: &Path| fs::read(folder.join("memory.bin")).expect("memory");
    assert!(
        content(&second) == content(&shelf.folder()),
        "a guest that did not run has the same memory"
    );
    let passes = shelf.count("pass");
    daemon.put("vm.resume");
    daemon.wait_until("compares its memory", |_| shelf.count("pass") >= passes + 2);
    shelf.output().assert_sound();
    daemon.shut_down();
}

/// Refused with each of `words`; nothing of it stays, and the next request is
/// answered as if there had been none.
#[track_caller]
fn refused(daemon: &mut Daemon, shelf: &Shelf, what: &str, words: &[&str]) -> String {
    // All of it is read, so that all of it is judged.
    let body = shelf.restore_body(json!({"prefault": true}));
    let (status, chain) = daemon.refused("vm.restore", &body);
    let text = chain.join(": ");
    assert_eq!(status, 500, "{what}: {text}");
    assert_eq!(chain[0], "The VM could not be restored", "{what}");
    for word in words {
        assert!(text.contains(word), "{what}: no {word:?} in {text}");
    }
    assert!(daemon.get("vm.info").is_err(), "{what}");
    text
}

#[test]
fn a_snapshot_that_is_not_whole_is_refused() {
    let shelf = Shelf::filled("fill=64K beat_every=1000");
    let mut daemon = Daemon::start();
    let folder = shelf.folder();
    let mut wrong = |what: &str, name: &str, bytes: Option<Vec<u8>>, words: &[&str]| {
        let path = folder.join(name);
        let kept = shelf.0.file("kept");
        fs::rename(&path, &kept).expect("putting it aside");
        if let Some(bytes) = bytes {
            fs::write(&path, bytes).expect("writing another");
        }
        refused(&mut daemon, &shelf, what, words);
        fs::rename(&kept, &path).expect("putting it back");
    };
    let state = fs::read(folder.join("state.bin")).expect("the state");
    let memory = fs::read(folder.join("memory.bin")).expect("the memory");
    let machine = fs::read(folder.join("machine.bin")).expect("the description");
    let changed = |at: usize| {
        let mut bytes = state.clone();
        bytes[at] ^= 1;
        Some(bytes)
    };
    wrong("no state", "state.bin", None, &["no complete snapshot"]);
    wrong("no machine", "machine.bin", None, &["open", "machine.bin"]);
    wrong("no memory", "memory.bin", None, &["open", "memory.bin"]);
    wrong(
        "half a state",
        "state.bin",
        Some(state[..state.len() / 2].to_vec()),
        &["bytes where", "are announced"],
    );
    wrong(
        "a bit of the state",
        "state.bin",
        changed(state.len() / 2),
        &["damaged", "checksum"],
    );
    wrong(
        "a later version",
        "state.bin",
        changed(9),
        &["version", "this godwit knows"],
    );
    wrong(
        "something else",
        "state.bin",
        Some(b"GODWIT of another make, which is no state".to_vec()),
        &["not a saved machine"],
    );
    wrong("no bytes", "state.bin", Some(Vec::new()), &["0 bytes"]);
    wrong(
        "no description",
        "machine.bin",
        Some(machine[..machine.len() / 2].to_vec()),
        &["machine.bin has", "are announced"],
    );
    wrong(
        "less memory",
        "memory.bin",
        Some(memory[..memory.len() - 4096].to_vec()),
        &["memory file has 67104768 bytes", "67108864"],
    );
    // Whole again: nothing of the attempts stayed.
    daemon.put_json("vm.restore", &shelf.restore_body(json!({"resume": true})));
    let before = shelf.output().beats().len();
    daemon.wait_until("beats", |_| shelf.output().beats().len() > before);
    daemon.put("vm.delete");
    daemon.shut_down();
}

/// Wherever a bit is not as it was written, and wherever a file was cut: the guest
/// does not come back, and the file is named.
#[test]
fn a_snapshot_with_a_wrong_byte_anywhere_is_refused() {
    let shelf = Shelf::filled("fill=64K beat_every=1000");
    let mut daemon = Daemon::start();
    for name in ["config.json", "machine.bin", "memory.bin", "state.bin"] {
        let path = shelf.folder().join(name);
        let file = File::options().read(true).write(true).open(&path);
        let file = file.expect("a file of the snapshot");
        let size = file.metadata().expect("its size").len();
        // Its ends, and places in between; of the memory, data and holes.
        for at in (0..7)
            .map(|n| (size - 1) * n / 6)
            .chain([size / 3, size / 7])
        {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("a byte of it");
            file.write_all_at(&[byte[0] ^ 0x10], at)
                .expect("changing it");
            let what = format!("{name}, byte {at}");
            let chain = refused(&mut daemon, &shelf, &what, &[name]);
            if name == "memory.bin" {
                let chunk = format!("offset {:#x}", at & !0xffff);
                assert!(chain.contains(&chunk), "{at:#x}: {chain}");
            }
            file.write_all_at(&byte, at).expect("putting it back");
        }
        let last = size - 1;
        let mut byte = [0];
        file.read_exact_at(&mut byte, last).expect("its last byte");
        file.set_len(last).expect("cutting it");
        refused(&mut daemon, &shelf, &format!("{name}, cut"), &[name]);
        file.set_len(size + 1).expect("making it longer");
        refused(&mut daemon, &shelf, &format!("{name}, longer"), &[name]);
        file.set_len(size).expect("its size");
        file.write_all_at(&byte, last).expect("its last byte");
    }
    daemon.put_json("vm.restore", &shelf.restore_body(json!({"resume": true})));
    let before = shelf.output().beats().len();
    daemon.wait_until("beats", |_| shelf.output().beats().len() > before);
    daemon.shut_down();
}

/// A godwit without checksums put the bare state where the seal is now.
#[test]
fn a_snapshot_of_an_older_godwit_is_read() {
    let shelf = Shelf::filled(JUDGE);
    let path = shelf.folder().join("state.bin");
    let sealed = fs::read(&path).expect("the seal");
    let magic = sealed.windows(8).position(|bytes| bytes == b"GODWITST");
    let state = &sealed[magic.expect("a state in it")..];
    let length = u64::from_le_bytes(state[12..20].try_into().expect("its length"));
    let end = 24_usize + usize::try_from(length).expect("a length");
    fs::write(&path, &state[..end]).expect("the bare state");
    let mut daemon = Daemon::start();
    let passes = shelf.count("pass");
    daemon.put_json("vm.restore", &shelf.restore_body(json!({"resume": true})));
    daemon.wait_until("compares its memory", |_| shelf.count("pass") >= passes + 2);
    shelf.output().assert_sound();
    let said = daemon.shut_down().stderr;
    assert!(said.contains("wrote no checksums"), "{said}");
}

/// Files of another machine do not become part of this one.
#[test]
fn a_foreign_part_of_a_snapshot_is_refused() {
    let shelf = Shelf::filled("fill=64K beat_every=1000");
    let two = Shelf::new();
    let mut daemon = Daemon::start();
    let config = two
        .config("smp=2 fill=64K beat_every=1000")
        .with(json!({"cpus": {"boot_vcpus": 2}, "memory": {"size": 128 * MIB}}));
    daemon.put_json("vm.create", &config.to_json());
    daemon.put("vm.boot");
    daemon.wait_until("fills", |_| two.count("filled") == 1);
    daemon.put("vm.pause");
    two.snapshot(&mut daemon);
    daemon.put("vm.delete");
    for (name, words) in [
        ("state.bin", ["snapshot", "config.json"]),
        ("machine.bin", ["snapshot", "machine.bin"]),
        ("memory.bin", ["has 134217728 bytes", "67108864"]),
    ] {
        let (kept, path) = (shelf.0.file("kept"), shelf.folder().join(name));
        fs::rename(&path, &kept).expect("putting it aside");
        fs::copy(two.folder().join(name), &path).expect("taking the other's");
        refused(&mut daemon, &shelf, name, &words);
        fs::rename(&kept, &path).expect("putting it back");
    }
    // A folder that holds something else is not touched.
    let elsewhere = Shelf::new();
    fs::create_dir(elsewhere.folder()).expect("a folder");
    fs::write(elsewhere.folder().join("letter.txt"), "dear").expect("a file");
    refused(
        &mut daemon,
        &elsewhere,
        "a folder of letters",
        &["no complete snapshot"],
    );
    let kept = fs::read_to_string(elsewhere.folder().join("letter.txt"));
    assert_eq!(kept.expect("the letter"), "dear");
    daemon.shut_down();
}

/// A folder that cannot be written refuses, and the guest goes on.
#[test]
fn a_snapshot_that_cannot_be_written_leaves_the_guest_alone() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new(JUDGE));
    daemon.put("vm.boot");
    daemon.wait_line("filled", 1);
    daemon.put("vm.pause");
    let file = daemon.scratch.write("file", "no folder");
    let url = format!("file://{}", file.display());
    let body = json!({"destination_url": url}).to_string();
    let (status, chain) = daemon.refused("vm.snapshot", &body);
    assert_eq!(status, 500, "{chain:?}");
    assert!(chain.join(": ").contains("make the folder"), "{chain:?}");
    assert_eq!(daemon.state(), "Paused");
    daemon.put("vm.resume");
    daemon.wait_line("pass", 1);
    daemon.output().assert_sound();
    daemon.shut_down();
}

/// The process has a file system of 1 MiB to itself, gone with it.
#[test]
fn a_full_file_system_keeps_no_half_a_snapshot() {
    let scratch = Scratch::new();
    let small = scratch.file("small");
    fs::create_dir(&small).expect("a folder");
    let mut command = Command::new("unshare");
    let script = r#"mount -t tmpfs -o size=1M none "$1" && exec "$0" --api-socket "$2""#;
    command.args(["--mount", "sh", "-c", script]).args([
        process::binary().as_os_str(),
        small.as_os_str(),
        scratch.file("api.sock").as_os_str(),
    ]);
    let mut daemon = Daemon::spawn(scratch, command);
    daemon.create(Config::new(JUDGE));
    daemon.put("vm.boot");
    daemon.wait_line("filled", 1);
    daemon.put("vm.pause");
    let url = format!("file://{}", small.join("snapshot").display());
    let body = json!({"destination_url": url}).to_string();
    let (status, chain) = daemon.refused("vm.snapshot", &body);
    assert_eq!(status, 500, "{chain:?}");
    let text = chain.join(": ");
    assert!(text.contains("No space left on device"), "{text}");
    let root = PathBuf::from(format!("/proc/{}/root", daemon.process.pid()));
    let inside = small.strip_prefix("/").expect("an absolute path");
    let left = fs::read_dir(root.join(inside).join("snapshot")).expect("the folder");
    assert_eq!(left.count(), 0);
    daemon.put("vm.resume");
    daemon.wait_line("pass", 1);
    daemon.output().assert_sound();
    daemon.shut_down();
}
