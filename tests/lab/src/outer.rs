//! The outer machine: a QEMU machine under TCG whose emulated CPU has AMD SVM, so that its Linux
//! has a complete KVM with vhost-net, taps and huge pages, on any machine.
//!
//! ```text
//! this machine                          outer machine (Linux, kvm-amd)
//!   cargo lab ── virtio-console port ──   agent: runs programs, moves files
//!             ◄─ serial console ───────   heartbeat once a second
//!   /         ── 9p, read-only ────────   root of the agent: what was built is there
//!   share/    ── 9p, writable ─────────   the same path
//!                                         /run, /dev/shm: tmpfs; /dev/hugepages: pools
//! ```
//!
//! Programs find the same paths in both machines. What is written often goes to `/run/lab` (the
//! agent's `TMPDIR`): frame streams stall for seconds when logs are written over 9p.
//!
//! # The first CPU runs no guest
//!
//! Whenever a CPU restores x87 state (XRSTOR, FXRSTOR, FLDENV), QEMU takes a flag away from the
//! *first* CPU, by a read, a change and a write that are not atomic: `cpu_clear_ignne` in
//! `target/i386/tcg/sysemu/fpu_helper.c` of 7.2, on `hflags2`; 10.0 fails alike. What the first CPU itself
//! writes to that word at the same moment can be lost. There are only two things that it writes
//! there often: whether nested paging is on, at VMRUN and #VMEXIT, and whether it takes interrupts,
//! at CLGI and STGI. The former lost, the outer kernel is read through the guest's page tables, or
//! the guest's state is overwritten by the kernel's: a triple fault or a panic. The latter lost, the
//! CPU never takes an interrupt again. So a machine for guests has three CPUs, and the agent, with
//! all that it starts, leaves the first one to the kernel; who pins a vCPU there is on his own.

pub mod agent;
pub mod client;
mod kick;
pub mod protocol;

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::doctor;
use crate::image::{Image, ImageError};
use crate::packages::{self, PackageError};
use crate::progress::Step;
use crate::workspace;
use client::{AgentError, Client, Output};
use protocol::{Exec, Reply, Stream};

/// Longest time the machine may take to come up; it takes 6 to 15 s on two idle cores.
const UP_LIMIT: Duration = Duration::from_secs(180);

/// A gap between heartbeats that makes a machine one that stood still.
pub const STALL: Duration = Duration::from_secs(10);

/// A gap after which a machine is given up: none that stood still so long has gone on.
pub const LOST: Duration = Duration::from_secs(120);

/// Scratch space in the machine's own memory, for everything written often.
pub const SCRATCH: &str = "/run/lab";

/// What the machine is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// CPUs: the last one on NUMA node 1, the others on node 0. With three or more, programs are not
    /// run on the first.
    pub cpus: u32,
    /// Memory, MiB, half on each of two NUMA nodes.
    pub memory_mib: u64,
    /// Pages of 2 MiB in the huge-page pool.
    pub pages_2m: u64,
    /// Pages of 1 GiB in the huge-page pool, shared out over the nodes.
    pub pages_1g: u64,
    /// More words for the kernel's command line.
    pub parameters: &'static str,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            cpus: 3,
            memory_mib: 6144,
            pages_2m: 800,
            pages_1g: 2,
            parameters: "",
        }
    }
}

/// Why there is no outer machine, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum OuterError {
    /// A package is missing.
    #[error("the outer machine needs packages of the distribution")]
    Package(#[from] PackageError),
    /// There is no kernel or initramfs for it.
    #[error("the outer machine needs the guest image")]
    Image(#[from] ImageError),
    /// A file or QEMU itself could not be used.
    #[error("cannot {attempt}")]
    Io {
        /// What was tried.
        attempt: String,
        /// The reason.
        source: io::Error,
    },
    /// This machine has not enough memory for it.
    #[error("the outer machine takes {needed} MiB and this machine has {available} MiB free")]
    Memory {
        /// What it takes.
        needed: u64,
        /// What is there.
        available: u64,
    },
    /// It did not come up.
    #[error(
        "the outer machine did not come up within {limit:?}; the end of its console:\n{console}"
    )]
    NotUp {
        /// The limit.
        limit: Duration,
        /// The last lines of its console.
        console: String,
    },
}

/// A running outer machine. Dropped, it is ended; it does not outlive the thread that started it.
#[derive(Debug)]
pub struct Outer {
    qemu: Child,
    client: Client,
    console: Arc<Mutex<Console>>,
    folder: PathBuf,
    kernel: String,
}

/// What the machine's console said.
#[derive(Debug)]
struct Console {
    lines: VecDeque<String>,
    last_beat: Instant,
    longest_gap: Duration,
}

impl Outer {
    /// Starts a machine and waits until its agent answers.
    ///
    /// # Errors
    /// See [`OuterError`].
    pub fn start(shape: Shape) -> Result<Self, OuterError> {
        packages::install_missing(packages::FOR_OUTER)?;
        let image = Image::build()?;
        let available = doctor::memory_available_mib();
        if available < shape.memory_mib {
            return Err(OuterError::Memory {
                needed: shape.memory_mib,
                available,
            });
        }
        let step = Step::start("starting the outer machine");
        let folder = run_folder()?;
        let share = folder.join("share");
        let io = |attempt: &str| {
            let attempt = attempt.to_owned();
            move |source| OuterError::Io { attempt, source }
        };
        fs::create_dir_all(&share).map_err(io("make the folder the outer machine shares"))?;
        let agent = workspace::this_program().map_err(io("find this program's path"))?;
        let (ours, theirs) = UnixStream::pair().map_err(io("make a socket for the agent"))?;
        let mut qemu = command(shape, &image, &agent, &share)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io("start qemu-system-x86_64"))?;
        let console = Arc::new(Mutex::new(Console {
            lines: VecDeque::new(),
            last_beat: Instant::now(),
            longest_gap: Duration::ZERO,
        }));
        let log = folder.join("console.log");
        for stream in [
            qemu.stdout
                .take()
                .map(|out| Box::new(out) as Box<dyn io::Read + Send>),
            qemu.stderr
                .take()
                .map(|err| Box::new(err) as Box<dyn io::Read + Send>),
        ] {
            let file = fs::OpenOptions::new().append(true).create(true).open(&log);
            let file = file.map_err(io("write the outer machine's console log"))?;
            let console = Arc::clone(&console);
            thread::spawn(move || stream.map(|stream| follow(stream, file, &console)));
        }
        let (client, ready) = Client::new(ours).map_err(io("use the agent's socket"))?;
        let mut outer = Self {
            qemu,
            client,
            console,
            folder,
            kernel: String::new(),
        };
        loop {
            match ready.recv_timeout(Duration::from_millis(200)) {
                Ok((Reply::Ready { kernel }, _)) => {
                    outer.kernel = kernel;
                    break;
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if step.elapsed() < UP_LIMIT => {
                    step.say(outer.last_line());
                }
                Err(_) => {
                    let console = outer.console_tail(20);
                    return Err(OuterError::NotUp {
                        limit: step.elapsed(),
                        console,
                    });
                }
            }
        }
        {
            let mut console = lock(&outer.console);
            console.last_beat = Instant::now();
            console.longest_gap = Duration::ZERO;
        }
        step.done(&format!("Linux {}, {} MiB", outer.kernel, shape.memory_mib));
        Ok(outer)
    }

    /// The agent.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A folder that both machines write, at the same path.
    pub fn share(&self) -> PathBuf {
        self.folder.join("share")
    }

    /// The outer kernel's release.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Runs a program to its end, unless the machine is lost meanwhile.
    ///
    /// # Errors
    /// When the machine ends, stands still for [`LOST`], or does not answer.
    pub fn run(&self, exec: Exec) -> Result<Output, AgentError> {
        let started = Instant::now();
        let alive = || {
            let silence = lock(&self.console).last_beat.elapsed();
            if silence.min(started.elapsed()) > LOST {
                return Err(AgentError::StandsStill(silence));
            }
            Ok(())
        };
        self.client.run_while(exec, |_: Stream, _: &[u8]| {}, alive)
    }

    /// Runs a shell script in the machine and gives what it left behind.
    ///
    /// # Errors
    /// When the machine ends or does not answer. A script that fails is not an error here.
    pub fn shell(&self, script: &str, limit: Duration) -> Result<Output, AgentError> {
        let arguments = ["sh", "-c", script].map(str::to_owned).to_vec();
        self.run(exec(arguments, limit))
    }

    /// The longest time without a heartbeat since the last call, the current one included.
    pub fn longest_gap(&self) -> Duration {
        let mut console = lock(&self.console);
        let gap = console.longest_gap.max(console.last_beat.elapsed());
        console.longest_gap = Duration::ZERO;
        gap
    }

    /// The last `count` lines of its console.
    pub fn console_tail(&self, count: usize) -> String {
        let console = lock(&self.console);
        let from = console.lines.len().saturating_sub(count);
        console
            .lines
            .iter()
            .skip(from)
            .flat_map(|line| [line.as_str(), "\n"])
            .collect()
    }

    fn last_line(&self) -> String {
        lock(&self.console)
            .lines
            .back()
            .cloned()
            .unwrap_or_default()
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        if self.client.power_off().is_ok() {
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_secs(3) {
                if matches!(self.qemu.try_wait(), Ok(Some(_)) | Err(_)) {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// A program for the agent, in the checkout's root, without a terminal.
pub fn exec(arguments: Vec<String>, limit: Duration) -> Exec {
    Exec {
        arguments,
        environment: vec![
            ("TMPDIR".to_owned(), SCRATCH.to_owned()),
            ("HOME".to_owned(), "/root".to_owned()),
            (
                "PATH".to_owned(),
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ),
        ],
        folder: workspace::root().to_owned(),
        limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
        terminal: None,
    }
}

fn command(shape: Shape, image: &Image, agent: &Path, share: &Path) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    // `-cpu max` with a thread for each CPU: `-cpu EPYC` crashed the outer kernel under load, and
    // `thread=single` hung the inner one.
    // Page tables of four levels: with five, a nested walk reads half as many entries again.
    // 1 GiB below the hole, not 2: behind it, node 0 then has room for a page of 1 GiB beside what
    // its kernel keeps there.
    qemu.args([
        "-machine",
        "q35,max-ram-below-4g=1G",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max,la57=off",
    ]);
    qemu.arg("-smp").arg(shape.cpus.to_string());
    qemu.args(["-nodefaults", "-nographic", "-no-reboot", "-net", "none"]);
    qemu.arg("-m").arg(shape.memory_mib.to_string());
    let last = shape.cpus - 1;
    for (node, cpus) in [format!("0-{}", last - 1), last.to_string()]
        .iter()
        .enumerate()
    {
        let half = shape.memory_mib / 2;
        qemu.arg("-object")
            .arg(format!("memory-backend-ram,id=node{node},size={half}M"));
        qemu.arg("-numa")
            .arg(format!("node,nodeid={node},cpus={cpus},memdev=node{node}"));
    }
    qemu.arg("-kernel")
        .arg(image.vmlinux())
        .arg("-initrd")
        .arg(image.outer());
    // Without init_on_alloc=0 the kernel clears the whole huge-page pool when it is made: 45 s.
    qemu.arg("-append").arg(format!(
        "console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0 hugepagesz=1G hugepages={} {} godwit.pages_2m={} godwit.agent={} godwit.share={}",
        shape.pages_1g,
        shape.parameters,
        shape.pages_2m,
        agent.display(),
        share.display()
    ));
    // Standard output is a pipe to the lab, and standard input the agent's socket.
    qemu.args([
        "-chardev",
        "file,id=console,path=/proc/self/fd/1",
        "-serial",
        "chardev:console",
    ]);
    qemu.args([
        "-device",
        "virtio-serial-pci",
        "-chardev",
        "socket,id=agent,fd=0",
    ]);
    qemu.arg("-device").arg(format!(
        "virtserialport,chardev=agent,name={}",
        protocol::PORT
    ));
    qemu.args([
        "-virtfs",
        "local,path=/,mount_tag=root,readonly=on,security_model=none,multidevs=remap",
    ]);
    qemu.arg("-virtfs").arg(format!(
        "local,path={},mount_tag=share,security_model=none,multidevs=remap",
        share.display()
    ));
    // A group of its own: Ctrl-C ends the lab, and the lab's end ends the machine.
    qemu.process_group(0);
    // SAFETY: prctl is async-signal-safe, and the closure touches no memory of the parent.
    unsafe {
        qemu.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
    qemu
}

/// A folder for this machine's files; those of runs that were killed are removed.
fn run_folder() -> Result<PathBuf, OuterError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let lab = workspace::lab();
    for entry in fs::read_dir(&lab).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix("outer-")?.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = lab.join(format!("outer-{}-{number}", process::id()));
    fs::create_dir_all(&folder).map_err(|source| OuterError::Io {
        attempt: format!("make {}", folder.display()),
        source,
    })?;
    Ok(folder)
}

fn follow(stream: impl io::Read, mut log: fs::File, console: &Mutex<Console>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream
        .read_until(b'\n', &mut line)
        .is_ok_and(|length| length > 0)
    {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let mut console = lock(console);
        if text.contains(agent::BEAT) {
            let now = Instant::now();
            let gap = now - console.last_beat;
            console.longest_gap = console.longest_gap.max(gap);
            console.last_beat = now;
        } else if !text.is_empty() {
            let _ = writeln!(log, "{text}");
            console.lines.push_back(text);
            if console.lines.len() > 200 {
                console.lines.pop_front();
            }
        }
        line.clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
