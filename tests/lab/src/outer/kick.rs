//! A bound on interrupts that the emulation forgets: two CPUs that interrupt each other.
//!
//! What a CPU is to look at next is a word, `interrupt_request`, that other threads set under
//! QEMU's lock; but at VMRUN and #VMEXIT the CPU itself changes its virtual interrupt's bit there
//! without it (`helper_vmrun` and `do_vmexit` in `target/i386/tcg/sysemu/svm_helper.c` of 7.2). An
//! interrupt that came at that moment stays in the local APIC, unseen until the next one comes; if
//! it was the timer's, none may come for seconds. Each of two threads here wakes the other when
//! nobody woke it for [`PERIOD`], and a wake-up is an interrupt.

use std::io;
use std::sync::mpsc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use nix::sched::CpuSet;

use crate::peer::threads;

/// How long a forgotten interrupt stays so, at the most twice this.
const PERIOD: Duration = Duration::from_millis(25);

/// Starts the two threads, on the last two of these CPUs.
///
/// # Errors
/// When there are fewer than two, or they cannot be had.
pub(super) fn start(cpus: &CpuSet) -> io::Result<()> {
    let mut last = (0..CpuSet::count())
        .rev()
        .filter(|cpu| cpus.is_set(*cpu).unwrap_or(false));
    let (Some(one), Some(other)) = (last.next(), last.next()) else {
        return Err(io::Error::other("fewer than two CPUs to kick"));
    };
    let (one, other) = (spawn(one)?, spawn(other)?);
    introduce(&one, &other)?;
    introduce(&other, &one)
}

/// A thread on a CPU, and where it is told of the other.
type Kicker = (Thread, mpsc::Sender<Thread>);

fn spawn(cpu: usize) -> io::Result<Kicker> {
    let (name, named) = mpsc::channel::<Thread>();
    let (ready, told) = mpsc::channel();
    let body = move || {
        // Above all that shares its time, so that a wake-up interrupts what runs there.
        let placed = threads::pin(0, &[cpu]).and_then(|()| threads::fifo(0, 1));
        let _ = ready.send(placed);
        if let Ok(other) = named.recv() {
            kick(&other);
        }
    };
    let thread = thread::Builder::new()
        .name(format!("kick{cpu}"))
        .spawn(body)?;
    told.recv().map_err(io::Error::other)??;
    Ok((thread.thread().clone(), name))
}

fn introduce(to: &Kicker, other: &Kicker) -> io::Result<()> {
    to.1.send(other.0.clone()).map_err(io::Error::other)
}

fn kick(other: &Thread) -> ! {
    loop {
        let since = Instant::now();
        thread::park_timeout(PERIOD);
        if since.elapsed() >= PERIOD {
            other.unpark();
        }
    }
}
