//! A guest that goes on before all of its memory is read from its snapshot, and storage that
//! does not answer, or answers wrongly, meanwhile.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use godwit_lab::peer::listens;
use serde_json::{Value, json};

use super::phases::{answer, ask, is_pending, refuses_all_but};
use super::snapshot::{JUDGE, Shelf};
use crate::support::daemon::Daemon;
use crate::support::gate::{Gate, Rule};
use crate::support::namespace::{apart, run};
use crate::support::process;
use crate::support::scrape::{scrape, state};
use crate::support::scratch::Scratch;

const MEMORY: &str = "memory.bin";

/// A snapshot behind a gate, and a godwit that tells what happens.
struct Stage {
    daemon: Daemon,
    gate: Gate,
    place: PathBuf,
    shelf: Shelf,
}

impl Stage {
    fn new(cmdline: &str) -> Self {
        let mut command = Command::new(process::binary());
        // As clients of the peer start it.
        command.args(["-v", "--seccomp", "false"]);
        Self::with(cmdline, command)
    }

    /// One that may not serve faults by the system call: `CAP_SYS_PTRACE` and the sysctl
    /// `vm.unprivileged_userfaultfd` would allow it.
    fn unprivileged(cmdline: &str) -> Self {
        let allowed = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
        assert_eq!(allowed.expect("a kernel with userfaultfd"), "0\n");
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-sys_ptrace"]);
        command.args([process::binary(), "-v".into()]);
        Self::with(cmdline, command)
    }

    fn with(cmdline: &str, mut command: Command) -> Self {
        let shelf = Shelf::filled(cmdline);
        let place = shelf.0.file("gate");
        fs::create_dir(&place).expect("a folder");
        let gate = Gate::open(&shelf.folder(), &place);
        let scratch = Scratch::new();
        let events = scratch.file("events");
        let argument = format!("path={}", events.display());
        command.arg("--api-socket").arg(scratch.file("api.sock"));
        command.args(["--event-monitor", &argument]);
        let daemon = Daemon::spawn(scratch, command);
        Self {
            daemon,
            gate,
            place,
            shelf,
        }
    }

    fn restore_body(&self, more: Value) -> String {
        Shelf::body(&self.place, more)
    }

    fn restore(&mut self, more: Value) {
        let body = self.restore_body(more);
        self.daemon.put_json("vm.restore", &body);
    }

    /// The properties of an event that was told.
    fn event(&self, name: &str) -> Option<Value> {
        let text = fs::read_to_string(self.daemon.scratch.file("events")).expect("events");
        let mut events = text.split("\n\n").filter(|event| !event.is_empty());
        events.find_map(|event| {
            let event: Value = serde_json::from_str(event).ok()?;
            (event["event"] == name).then(|| event["properties"].clone())
        })
    }

    /// Its guest compares all of its memory, more than once.
    fn is_sound(&mut self) {
        let passes = self.shelf.count("pass");
        let shelf = &self.shelf;
        self.daemon
            .wait_until("compares its memory", |_| shelf.count("pass") >= passes + 2);
        shelf.output().assert_sound();
    }

    fn wait_phase(&mut self, phase: &str) {
        self.daemon
            .wait_until(phase, |daemon| state(&scrape(&daemon.socket())) == phase);
    }
}

#[test]
fn the_guest_goes_on_before_its_memory_is_read() {
    apart(|| {
        let mut stage = Stage::new(JUDGE);
        stage.gate.rule(MEMORY, Rule::Hold);
        stage.restore(json!({"resume": true}));
        assert_eq!(stage.daemon.state(), "Running");
        let gate = &stage.gate;
        stage.daemon.wait_until("reads", |_| gate.held() > 0);
        assert_eq!(stage.event("memory-filled"), None);
        stage.daemon.get("vmm.ping").expect("a ping");
        stage.gate.rule(MEMORY, Rule::Pass);
        stage.is_sound();
        let shelf = stage.shelf.folder();
        stage.daemon.wait_until("all is read", |daemon| {
            let events = fs::read_to_string(daemon.scratch.file("events"));
            events.expect("events").contains("memory-filled")
        });
        let told = stage.event("memory-filled").expect("properties");
        let bytes: u64 = told["bytes"]
            .as_str()
            .expect("bytes")
            .parse()
            .expect("a number");
        assert!(bytes >= 2 << 20, "{bytes}");
        // The snapshot is not needed any more.
        fs::remove_dir_all(shelf).expect("removing the snapshot");
        stage.is_sound();
        stage.daemon.put("vm.reboot");
        stage.daemon.shut_down();
    });
}

#[test]
fn pausing_waits_for_storage_and_the_rest_goes_on() {
    apart(|| {
        let mut stage = Stage::new(JUDGE);
        stage.gate.rule(MEMORY, Rule::Hold);
        stage.restore(json!({"resume": true}));
        let gate = &stage.gate;
        stage.daemon.wait_until("reads", |_| gate.held() > 0);
        let pause = ask(&stage.daemon, "vm.pause", "");
        // A host whose vCPUs can be taken out of the wait has paused it already.
        stage.daemon.wait_until("pauses", |daemon| {
            ["pausing", "paused"].contains(&state(&scrape(&daemon.socket())).as_str())
        });
        if state(&scrape(&stage.daemon.socket())) == "pausing" {
            refuses_all_but(&mut stage.daemon, &[], "pausing", "the VM is being paused");
            assert_eq!(stage.daemon.state(), "Running");
            is_pending(&pause);
        }
        stage.gate.rule(MEMORY, Rule::Pass);
        assert!(answer(pause).starts_with("HTTP/1.1 204 "));
        assert_eq!(stage.daemon.state(), "Paused");
        stage.daemon.put("vm.resume");
        stage.is_sound();
        stage.daemon.shut_down();
    });
}

#[test]
fn a_snapshot_and_a_migration_wait_for_all_of_memory() {
    apart(|| {
        let mut stage = Stage::new(JUDGE);
        stage.gate.rule(MEMORY, Rule::Hold);
        stage.restore(json!({}));
        assert_eq!(stage.daemon.state(), "Paused");
        // A migration can be cancelled meanwhile.
        let nowhere = stage.daemon.scratch.file("nowhere");
        let url = format!("unix:{}", nowhere.display());
        let send = json!({"destination_url": url}).to_string();
        stage.daemon.put_json("vm.send-migration", &send);
        stage.wait_phase("sending");
        stage.daemon.put("vm.cancel-migration");
        stage.wait_phase("paused");
        let progress = stage.daemon.get("vm.migration-progress").expect("progress");
        assert_eq!(progress["status"], "cancelled", "{progress}");
        // What a snapshot has is the whole.
        let second = stage.shelf.0.file("second");
        let url = format!("file://{}", second.display());
        let body = json!({"destination_url": url}).to_string();
        let snapshot = ask(&stage.daemon, "vm.snapshot", &body);
        stage.wait_phase("snapshotting");
        is_pending(&snapshot);
        assert!(!second.exists());
        stage.gate.rule(MEMORY, Rule::Pass);
        assert!(answer(snapshot).starts_with("HTTP/1.1 204 "));
        let content = |folder: PathBuf| fs::read(folder.join(MEMORY)).expect("memory");
        assert!(content(second) == content(stage.shelf.folder()));
        // And so it is at another instance.
        stage.gate.rule(MEMORY, Rule::Hold);
        stage.daemon.put("vm.delete");
        stage.restore(json!({"resume": true}));
        let mut there = Daemon::start();
        let place = there.scratch.file("m.sock");
        let url = format!("unix:{}", place.display());
        let receive = json!({"receiver_url": url}).to_string();
        let receive = ask(&there, "vm.receive-migration", &receive);
        there.wait_until("listens", |_| listens(&place));
        let send = json!({"destination_url": url}).to_string();
        stage.daemon.put_json("vm.send-migration", &send);
        stage.wait_phase("sending");
        stage.gate.rule(MEMORY, Rule::Pass);
        assert!(answer(receive).starts_with("HTTP/1.1 204 "));
        let passes = stage.shelf.count("pass");
        let shelf = &stage.shelf;
        there.wait_until("compares its memory", |_| shelf.count("pass") >= passes + 2);
        shelf.output().assert_sound();
        assert_eq!(stage.daemon.process.wait().code, Some(0));
        there.shut_down();
    });
}

/// What was damaged is found when the guest wants it, or in its turn; it is stopped, told, and
/// can be deleted; nobody gets a wrong byte.
#[test]
fn a_guest_whose_memory_is_lost_is_stopped_for_good() {
    apart(|| {
        let mut stage = Stage::new(JUDGE);
        let path = stage.shelf.folder().join(MEMORY);
        let lose = |stage: &mut Stage, words: &[&str]| {
            stage.wait_phase("lost");
            let told = stage.event("memory-lost").expect("properties");
            let reason = told["reason"].as_str().expect("a reason").to_owned();
            for word in words {
                assert!(reason.contains(word), "no {word:?} in {reason}");
            }
            let why = "part of the VM's memory could not be read";
            refuses_all_but(&mut stage.daemon, &["vm.delete"], "lost", why);
            assert_eq!(stage.daemon.state(), "Paused");
            stage.daemon.put("vm.delete");
            stage.shelf.output().assert_sound();
            fs::write(stage.daemon.scratch.file("events"), "").expect("forgetting events");
        };
        // The storage fails while the guest runs.
        stage.gate.rule(MEMORY, Rule::Hold);
        stage.restore(json!({"resume": true}));
        let gate = &stage.gate;
        stage.daemon.wait_until("reads", |_| gate.held() > 0);
        stage.gate.rule(MEMORY, Rule::Fail);
        lose(&mut stage, &[MEMORY, "read", "error"]);
        // The file is damaged where the guest reads in turn, and where it does not run.
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .expect("memory");
        let size = file.metadata().expect("its size").len();
        let mut content = vec![0; usize::try_from(size).expect("a size")];
        file.read_exact_at(&mut content, 0).expect("reading it");
        let data = content
            .chunks(4096)
            .rposition(|page| page.iter().any(|byte| *byte != 0));
        let at = data.expect("data") as u64 * 4096 + 17;
        let byte = [content[usize::try_from(at).expect("a place")]];
        for resume in [true, false] {
            stage.gate.rule(MEMORY, Rule::Hold);
            stage.restore(json!({"resume": resume}));
            file.write_all_at(&[byte[0] ^ 1], at).expect("changing it");
            stage.gate.rule(MEMORY, Rule::Pass);
            let place = format!("offset {:#x}", at & !0xffff);
            lose(&mut stage, &[MEMORY, "damaged", &place]);
            file.write_all_at(&byte, at).expect("putting it back");
        }
        // Whole again, it is a guest as before.
        stage.restore(json!({"resume": true}));
        stage.is_sound();
        stage.daemon.shut_down();
    });
}

/// Its administrator gave it the device instead.
#[test]
fn without_the_privilege_by_the_device() {
    apart(|| {
        let mut stage = Stage::unprivileged(JUDGE);
        stage.gate.rule(MEMORY, Rule::Hold);
        stage.restore(json!({"resume": true}));
        let gate = &stage.gate;
        stage.daemon.wait_until("reads", |_| gate.held() > 0);
        stage.gate.rule(MEMORY, Rule::Pass);
        stage.is_sound();
        stage.daemon.shut_down();
    });
}

#[test]
fn where_faults_cannot_be_served_all_is_read_before() {
    apart(|| {
        run("mount", &["--bind", "/dev/null", "/dev/userfaultfd"]);
        let mut stage = Stage::unprivileged(JUDGE);
        stage.gate.rule(MEMORY, Rule::Hold);
        let body = stage.restore_body(json!({"resume": true}));
        let restore = ask(&stage.daemon, "vm.restore", &body);
        let gate = &stage.gate;
        stage.daemon.wait_until("reads", |_| gate.held() > 0);
        assert_eq!(state(&scrape(&stage.daemon.socket())), "restoring");
        is_pending(&restore);
        stage.gate.rule(MEMORY, Rule::Pass);
        assert!(answer(restore).starts_with("HTTP/1.1 204 "));
        stage.is_sound();
        assert_eq!(stage.event("memory-filled"), None);
        let said = stage.daemon.shut_down().stderr;
        let why = "All of memory is read before the guest goes on";
        assert!(said.contains(why), "{said}");
    });
}

/// Nothing holds up the end: of the machine when nothing of it waits, of the process never.
#[test]
fn storage_that_never_answers_does_not_keep_a_guest() {
    apart(|| {
        let mut stage = Stage::new(JUDGE);
        stage.gate.rule(MEMORY, Rule::Hold);
        stage.restore(json!({}));
        stage.daemon.put("vm.delete");
        stage.restore(json!({}));
        stage.daemon.put("vm.delete");
        stage.gate.rule(MEMORY, Rule::Pass);
        stage.restore(json!({"resume": true}));
        stage.is_sound();
        stage.daemon.put("vm.delete");
        // A process that is killed in the middle of it is gone.
        stage.gate.rule(MEMORY, Rule::Hold);
        stage.restore(json!({"resume": true}));
        stage
            .daemon
            .process
            .signal(nix::sys::signal::Signal::SIGKILL);
        stage.gate.rule(MEMORY, Rule::Pass);
        let ended = stage.daemon.process.wait();
        assert_eq!(ended.signal, Some(libc::SIGKILL));
        assert_eq!(ended.code, None);
    });
}
