//! The demo on the machine it runs on: a bridge with two taps, a guest, frames, a move.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::outcome::Outcome;
use super::{CONFIG, DemoError};
use crate::bench::{HugePagePool, interrupt};
use crate::command;
use crate::packages;
use crate::peer::{self, Instance, Machine, PeerError, Vmm};
use crate::progress::Step;
use crate::traffic::{self, Bridge, Pace, Port, Stream};
use crate::workspace;

/// Where the guest is: first on one, then on the other.
const TAPS: [&str; 2] = ["gw0", "gw1"];

/// Longest time until testpmd forwards; emulated machines on busy cores take their time.
const READY_LIMIT: Duration = Duration::from_secs(240);

/// Longest time until the guest is off.
const OFF_LIMIT: Duration = Duration::from_secs(60);

/// How long the stream runs before the move and after it.
const BESIDE: Duration = Duration::from_secs(4);

/// What the guest may stand still on an emulated machine, where the fixed cost alone is near the
/// VMMs' defaults.
const EMULATED_LIMIT_MS: u64 = 1000;

/// What to do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The VMM.
    pub vmm: Vmm,
    /// Frames to send before the move, one in flight.
    pub frames: u64,
    /// Whether this machine is emulated.
    pub emulated: bool,
    /// How long the guest may stand still, if not by default.
    pub downtime_ms: Option<u64>,
}

/// Boots the guest, sends frames through it, moves it while more pass, turns it off, and removes
/// what it made.
///
/// # Errors
/// See [`DemoError`].
pub(crate) fn run(plan: &Plan) -> Result<Outcome, DemoError> {
    // So that Ctrl-C leaves no grown pool behind.
    interrupt::note_signals().map_err(|source| DemoError::Io {
        path: PathBuf::from("signals"),
        source,
    })?;
    if plan.vmm == Vmm::Qemu {
        packages::install_missing(packages::FOR_OUTER)?;
    }
    // A thread of its own: the network is its own, and nothing of it stays.
    thread::scope(|scope| {
        let switch = scope.spawn(|| {
            apart()?;
            switch(plan)
        });
        switch
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn switch(plan: &Plan) -> Result<Outcome, DemoError> {
    let machine = Machine::read(&workspace::root().join(CONFIG)).map_err(alone)?;
    let _pool = HugePagePool::with_free(2 * (machine.memory() >> 21))?;
    let _bridge = Bridge::new(&TAPS, false)?;
    let port = Port::open(traffic::PORT)?;
    let [here, there] = TAPS;

    let step = Step::start(format!("booting the guest in {}", plan.vmm.name()));
    let mut guest = plan.vmm.boot(&machine, here).map_err(alone)?;
    let ready = |text: &str| text.contains("godwit: ready testpmd");
    let waited = guest
        .console()
        .wait_until("testpmd's start", READY_LIMIT, ready);
    explained(&*guest, waited)?;
    step.done("testpmd forwards");

    let step = Step::start(format!("sending {} frames, one in flight", plan.frames));
    let stream = Stream {
        frames: plan.frames,
        limit: Duration::from_secs(300),
        ..Stream::default()
    };
    let tally = traffic::one_in_flight(&port, &stream, |tally| step.say(tally.to_string()))?;
    step.done(&format!("{} back, {} lost", tally.received, tally.lost()));
    peer::go_on().map_err(alone)?;

    let limit_ms = plan
        .downtime_ms
        .or(plan.emulated.then_some(EMULATED_LIMIT_MS));
    let pace = Pace {
        every: Duration::from_millis(if plan.emulated { 5 } else { 1 }),
        limit: Duration::from_secs(900),
        ..Pace::default()
    };
    let step = Step::start("moving the guest under traffic");
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let (record, moved) = thread::scope(|scope| {
        // However this ends, the stream ends too.
        let ending = Ending(&stop);
        let stream = scope.spawn(|| traffic::paced(&port, &pace, began, &stop));
        thread::sleep(BESIDE);
        let moved = guest
            .prepare(there)
            .and_then(|()| guest.migrate(limit_ms, &mut |how_far| step.say(how_far)));
        if moved.is_ok() {
            thread::sleep(BESIDE);
        }
        drop(ending);
        let record = stream
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (record, moved)
    });
    let (record, moved) = (record?, explained(&*guest, moved)?);
    step.done("it forwards at the destination");

    let step = Step::start("turning the guest off");
    let off = guest.console().type_in("stop\n");
    let off = off.and_then(|()| guest.console().wait_for_end("the guest's end", OFF_LIMIT));
    explained(&*guest, off)?;
    step.done("off");
    let at = |moment: Instant| (moment - began).as_secs_f64();
    Ok(Outcome {
        vmm: plan.vmm.name().to_owned(),
        emulated: plan.emulated,
        memory: machine.memory(),
        limit_ms,
        tally,
        record,
        asked: at(moved.asked),
        stopped: at(moved.stopped),
        ran: at(moved.ran),
        account: moved.account,
    })
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn alone(source: PeerError) -> DemoError {
    DemoError::Guest {
        said: String::new(),
        source,
    }
}

/// A failure with what both sides said.
fn explained<T>(guest: &dyn Instance, result: Result<T, PeerError>) -> Result<T, DemoError> {
    result.map_err(|source| DemoError::Guest {
        said: guest.said(),
        source,
    })
}

/// Gives the calling thread, and what it starts from now on, a network and mounts of its own. They
/// go with the last process that has them.
fn apart() -> Result<(), DemoError> {
    let at = |source: io::Error| DemoError::Io {
        path: PathBuf::from("a network of its own (is this root?)"),
        source,
    };
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(|errno| at(errno.into()))?;
    for arguments in [
        &["--make-rprivate", "/"][..],
        // Interfaces are shown by a sysfs that was mounted in their namespace.
        &["-t", "sysfs", "sysfs", "/sys"],
    ] {
        let mut mount = Command::new("mount");
        mount.args(arguments);
        command::succeed(mount, Duration::from_secs(30))?;
    }
    // Kernels may give new interfaces addresses, and neighbour discovery is traffic.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    Ok(())
}
