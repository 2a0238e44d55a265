//! The demo on the machine it runs on: a bridge with two taps, a guest, frames, a move.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::forwarder::{self, Forwarder, READY, alone, explained};
use super::outcome::Outcome;
use super::{CONFIG, DemoError};
use crate::peer::{self, Machine, Vmm};
use crate::progress::Step;
use crate::traffic::{self, Pace, Stream};
use crate::workspace;

/// Where the guest is: first on one, then on the other.
const TAPS: [&str; 2] = ["gw0", "gw1"];

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
    forwarder::apart(|| switch(plan))
}

fn switch(plan: &Plan) -> Result<Outcome, DemoError> {
    let machine = Machine::read(&workspace::root().join(CONFIG)).map_err(alone)?;
    let mut forwarder = Forwarder::boot(&plan.vmm, &machine, &TAPS, READY)?;
    let Forwarder { guest, port, .. } = &mut forwarder;
    let (port, there) = (&*port, TAPS[1]);

    let step = Step::start(format!("sending {} frames, one in flight", plan.frames));
    let stream = Stream {
        frames: plan.frames,
        limit: Duration::from_secs(300),
        ..Stream::default()
    };
    let tally = traffic::one_in_flight(port, &stream, |tally| step.say(tally.to_string()))?;
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
        let stream = scope.spawn(|| traffic::paced(port, &pace, began, &stop));
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
    let (record, moved) = (record?, explained(&**guest, moved)?);
    step.done("it forwards at the destination");

    forwarder.turn_off()?;
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
