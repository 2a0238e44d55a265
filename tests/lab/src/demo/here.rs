//! The demo on the machine it runs on: a tap, a guest, frames.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::{CONFIG, DemoError, Vmm};
use crate::command;
use crate::peer::qemu::QemuGuest;
use crate::progress::Step;
use crate::seam;
use crate::traffic::{self, Port, Stream, Tally};
use crate::workspace;

/// The tap of the demo's configuration.
const TAP: &str = "gw0";

/// Pages of 2 MiB the configuration takes.
const PAGES: u64 = 384;

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Longest time until testpmd forwards; emulated machines on busy cores take their time.
const READY_LIMIT: Duration = Duration::from_secs(240);

/// Longest time until the guest is off.
const OFF_LIMIT: Duration = Duration::from_secs(60);

/// Boots the guest, sends `frames`, turns the guest off and removes what it made.
pub(super) fn run(vmm: &Vmm, frames: u64) -> Result<Tally, DemoError> {
    let _pool = Pool::grow()?;
    let _tap = Tap::add()?;
    let step = Step::start("booting the guest");
    let mut guest = Guest::start(vmm)?;
    let ready = |console: &str| console.contains("godwit: ready testpmd");
    guest.wait_for(ready, READY_LIMIT, "testpmd did not start")?;
    step.done("testpmd forwards");

    let step = Step::start(format!("sending {frames} frames"));
    let port = Port::open(TAP)?;
    let stream = Stream {
        frames,
        limit: Duration::from_secs(300),
        ..Stream::default()
    };
    let tally = traffic::one_in_flight(&port, &stream, |tally| step.say(tally.to_string()))?;
    step.done(&format!("{} back, {} lost", tally.received, tally.lost()));

    let step = Step::start("turning the guest off");
    guest.stop()?;
    step.done("off");
    Ok(tally)
}

/// The same guest as in the configuration, for QEMU.
fn qemu() -> QemuGuest {
    let image = seam::image_folder();
    QemuGuest {
        kernel: image.join("vmlinuz"),
        initramfs: image.join("dpdk.cpio"),
        cmdline: "console=ttyS0 quiet godwit.task=testpmd godwit.forward=macswap".to_owned(),
        vcpus: 2,
        memory_mib: 2 * PAGES,
        tap: Some((TAP.to_owned(), "52:54:00:00:00:01".to_owned())),
    }
}

struct Guest {
    child: Child,
    console: Arc<Mutex<String>>,
}

impl Guest {
    fn start(vmm: &Vmm) -> Result<Self, DemoError> {
        let mut command = match vmm {
            Vmm::Godwit(program) => {
                let mut command = Command::new(program);
                command.arg("run").arg(CONFIG);
                command
            }
            Vmm::Qemu => qemu().command(),
        };
        let program = PathBuf::from(command.get_program());
        let at = |source| DemoError::Io {
            path: program.clone(),
            source,
        };
        command.current_dir(workspace::root());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: prctl is async-signal-safe, and the closure touches no memory of the parent.
        unsafe {
            command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
        }
        let mut child = command.spawn().map_err(at)?;
        let console = Arc::new(Mutex::new(String::new()));
        if let Some(stream) = child.stdout.take() {
            follow(stream, &console);
        }
        if let Some(stream) = child.stderr.take() {
            follow(stream, &console);
        }
        Ok(Self { child, console })
    }

    fn console(&self) -> String {
        self.console
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn error(&self, what: String) -> DemoError {
        DemoError::Guest {
            what,
            console: command::tail(&self.console(), 40),
        }
    }

    fn wait_for(
        &mut self,
        done: impl Fn(&str) -> bool,
        limit: Duration,
        what: &str,
    ) -> Result<(), DemoError> {
        let started = Instant::now();
        while !done(&self.console()) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.error(format!("{what}: the VMM ended with {status}")));
            }
            if started.elapsed() > limit {
                return Err(self.error(format!("{what} within {limit:?}")));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), DemoError> {
        if let Some(input) = &mut self.child.stdin {
            input.write_all(b"stop\n").map_err(|source| DemoError::Io {
                path: PathBuf::from("the guest's console"),
                source,
            })?;
        }
        let started = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.error(format!("the VMM ended with {status}"))),
                _ if started.elapsed() > OFF_LIMIT => {
                    return Err(self.error(format!("the guest was not off within {OFF_LIMIT:?}")));
                }
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(mut stream: impl Read + Send + 'static, console: &Arc<Mutex<String>>) {
    let console = Arc::clone(console);
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut piece) {
            let text =
                String::from_utf8_lossy(piece.get(..length).unwrap_or_default()).into_owned();
            console
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(&text);
        }
    });
}

struct Tap;

impl Tap {
    fn add() -> Result<Self, DemoError> {
        ip(&["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"])?;
        let tap = Self;
        ip(&["link", "set", TAP, "up"])?;
        Ok(tap)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = ip(&["link", "delete", TAP]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), DemoError> {
    let mut ip = Command::new("ip");
    ip.args(arguments);
    command::succeed(ip, Duration::from_secs(30))?;
    Ok(())
}

/// The huge-page pool, grown for the demo and put back after it.
struct Pool {
    before: Option<u64>,
}

impl Pool {
    fn grow() -> Result<Self, DemoError> {
        let path = PathBuf::from(POOL).join("nr_hugepages");
        let at = |source| DemoError::Io {
            path: path.clone(),
            source,
        };
        let number = |name: &str| -> u64 {
            let text = fs::read_to_string(Path::new(POOL).join(name)).unwrap_or_default();
            text.trim().parse().unwrap_or(0)
        };
        let free = number("free_hugepages");
        if free >= PAGES {
            return Ok(Self { before: None });
        }
        let before = number("nr_hugepages");
        fs::write(&path, (before + PAGES - free).to_string()).map_err(at)?;
        Ok(Self {
            before: Some(before),
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            let _ = fs::write(Path::new(POOL).join("nr_hugepages"), before.to_string());
        }
    }
}
