//! A control group that leaves godwit some CPUs only.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::command;
use crate::support::host;
use crate::support::namespace::apart;
use crate::support::process::{Ended, Godwit};
use crate::support::scratch::Scratch;

/// A group with its CPUs, in a hierarchy that is mounted for it alone; gone when dropped.
struct Group {
    folder: PathBuf,
    /// The hierarchy had no such groups before.
    switched_on: Option<PathBuf>,
}

impl Group {
    /// To be made where mounts are a test's own.
    fn with_cpu(cpu: u32, at: &Path) -> Self {
        fs::create_dir(at).expect("a folder for the hierarchy");
        let mounted = |arguments: &[&str]| {
            let mut command = Command::new("mount");
            command.args(arguments).arg("none").arg(at);
            command.output().is_ok_and(|output| output.status.success())
        };
        let controllers = at.join("cgroup.controllers");
        let has = |path: &Path| fs::read_to_string(path).is_ok_and(|list| list.contains("cpuset"));
        let mut switched_on = None;
        if mounted(&["-t", "cgroup2"]) && has(&controllers) {
            let control = at.join("cgroup.subtree_control");
            if !has(&control) {
                fs::write(&control, "+cpuset").expect("needs the cpuset controller");
                switched_on = Some(control);
            }
        } else {
            // Where version 1 has the controller.
            assert!(
                mounted(&["-t", "cgroup", "-o", "cpuset"]),
                "needs the cpuset controller"
            );
        }
        let folder = at.join(format!("godwit-test-{}", std::process::id()));
        fs::create_dir(&folder).expect("making a control group");
        let group = Self {
            folder,
            switched_on,
        };
        // Version 1 starts with neither.
        let mems = fs::read_to_string(at.join("cpuset.mems"))
            .or_else(|_| fs::read_to_string(at.join("cpuset.mems.effective")));
        fs::write(group.folder.join("cpuset.cpus"), cpu.to_string()).expect("setting its CPUs");
        fs::write(
            group.folder.join("cpuset.mems"),
            mems.unwrap_or_default().trim(),
        )
        .expect("setting its memory nodes");
        group
    }

    fn run(&self, mut command: Command) -> Ended {
        let _core = super::core();
        let members: OwnedFd = File::options()
            .write(true)
            .open(self.folder.join("cgroup.procs"))
            .expect("the group's members")
            .into();
        // SAFETY: between fork and exec, only a system call is made.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::write(members.as_fd(), b"0")?;
                Ok(())
            });
        }
        Godwit::spawn(command).wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its last member may be leaving still; a test that failed has told its reason.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        if let Some(control) = &self.switched_on {
            let _ = fs::write(control, "-cpuset");
        }
    }
}

#[test]
fn a_cpu_that_the_control_group_forbids() {
    let cpus = host::cpus();
    let (ours, other) = match cpus.as_slice() {
        [first, .., last] => (*first, *last),
        _ => panic!("needs two CPUs"),
    };
    let scratch = Scratch::new();
    apart(|| {
        let group = Group::with_cpu(ours, &scratch.file("cgroup"));
        let cpu = other.to_string();
        for mode in [
            &["--cpu", &cpu, "--duration", "100ms"][..],
            &["--cpu", &cpu, "--host"],
        ] {
            let ended = group.run(command(mode));
            assert_eq!(ended.code, Some(1), "{}", ended.stderr);
            for words in [&format!("CPUs {other}") as &str, "vcpu0", "cpuset"] {
                assert!(
                    ended.stderr.contains(words),
                    "no {words:?} in:\n{}",
                    ended.stderr
                );
            }
        }
        // One CPU for all: it measures, and says what that means.
        let ended = group.run(command(&["--duration", "200ms"]));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("platform.emulator_cpus is not set"),
            "{}",
            ended.stderr
        );
        let ended = group.run(command(&["--stress", "cpu"]));
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("no CPU left"), "{}", ended.stderr);
    });
    // Its mounts are gone with their namespace.
    let _ = fs::remove_dir(scratch.file("cgroup"));
}
