//! One VMM process: started, looked at, ended.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// Size of a page in `/proc/PID/statm`.
const PAGE: u64 = 4096;

/// A VMM; killed and collected when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    errors: PathBuf,
}

impl Process {
    /// Starts `command` in a process group of its own, its serial port on `serial`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, serial: OwnedFd, errors: PathBuf) -> io::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(serial)
            .stderr(File::create(&errors)?)
            .process_group(0);
        // SAFETY: between fork and exec, only a system call is made.
        unsafe {
            command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
        }
        let child = command.spawn()?;
        Ok(Self { child, errors })
    }

    /// What it said on standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    fn proc(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.child.id());
        fs::read_to_string(path).unwrap_or_default()
    }

    /// How it ended, once all its threads have, and its memory is given back: a process can be
    /// waited for only after that. It stays a zombie, whose figures can be read, until dropped.
    ///
    /// # Errors
    /// Those of the system.
    pub fn ended(&self) -> io::Result<Option<WaitStatus>> {
        let id = Id::Pid(Pid::from_raw(self.child.id().cast_signed()));
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        Ok(match waitid(id, flags)? {
            WaitStatus::StillAlive => None,
            status => Some(status),
        })
    }

    /// Seconds of CPU so far, of all its threads, its guest's included.
    pub fn cpu_seconds(&self) -> f64 {
        // Fields 14 and 15 of proc_pid_stat(5), in hundredths; field 3 follows the last bracket.
        let stat = self.proc("stat");
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks
            .filter_map(|ticks| ticks.parse::<f64>().ok())
            .sum::<f64>()
            / 100.0
    }

    /// Memory that it holds, in bytes: what its memfds hold, mapped or not, and what it has of its
    /// own. No page table is walked for it.
    pub fn held_bytes(&self) -> u64 {
        let statm = self.proc("statm");
        let mut fields = statm.split_whitespace().map(|n| n.parse().unwrap_or(0));
        let (resident, shared) = (fields.nth(1).unwrap_or(0), fields.next().unwrap_or(0_u64));
        self.memfd_bytes() + resident.saturating_sub(shared) * PAGE
    }

    fn memfd_bytes(&self) -> u64 {
        let folder = format!("/proc/{}/fd", self.child.id());
        let mut seen = BTreeSet::new();
        fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:"))
            })
            .filter_map(|path| fs::metadata(path).ok())
            .filter(|memfd| seen.insert((memfd.dev(), memfd.ino())))
            .map(|memfd| memfd.blocks() * 512)
            .sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let name = format!("godwit-bench-test-{}-{}", std::process::id(), script.len());
        let errors = std::env::temp_dir().join(name);
        let sink = File::create("/dev/null").unwrap();
        Process::start(command, sink.into(), errors).unwrap()
    }

    #[test]
    fn an_end_is_seen_and_its_figures_stay() {
        let process =
            shell("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo x >&2; exit 3");
        while process.ended().unwrap().is_none() {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(matches!(
            process.ended(),
            Ok(Some(WaitStatus::Exited(_, 3)))
        ));
        assert!(process.cpu_seconds() > 0.0);
        assert_eq!(process.said(), "x\n");
        let errors = process.errors.clone();
        drop(process);
        fs::remove_file(errors).unwrap();
    }

    #[test]
    fn memory_of_a_memfd_is_counted_by_what_it_holds() {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let memfd = File::from(memfd_create("bench-test", MFdFlags::empty()).unwrap());
        memfd.set_len(1 << 30).unwrap();
        let process = shell("sleep 60");
        let before = process.held_bytes();
        std::os::unix::fs::FileExt::write_all_at(&memfd, &[1; 1 << 20], 0).unwrap();
        let grown = process.held_bytes().saturating_sub(before);
        assert!((1 << 20..1 << 22).contains(&grown), "{grown}");
        let _ = fs::remove_file(&process.errors);
    }
}
