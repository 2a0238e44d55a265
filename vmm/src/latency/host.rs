//! Measuring on the host: threads where the vCPUs would run, scheduled as they
//! would be.
//!
//! What interrupts a spinning thread would interrupt a guest that polls, and what
//! wakes a sleeping one late would wake a halted vCPU late. What a guest shows
//! beyond that is KVM's part and godwit's.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

use super::scheduled::Watched;
use super::{LatencyError, Plan, Progress, Series, What, system};
use crate::affinity;
use crate::spec::{CpuSet, FifoPriority, VcpuId, format_cpu_list};

/// Threads that measure.
#[derive(Debug)]
pub struct Host {
    started: Instant,
    threads: Vec<Thread>,
    end: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Thread {
    live: Arc<Live>,
    /// What it measured; the thread then waits, until its counters have been read.
    done: Receiver<Series>,
    release: Sender<()>,
    handle: JoinHandle<()>,
    watched: Option<Watched>,
}

/// How a thread gets on, for whoever shows it.
#[derive(Debug, Default)]
struct Live {
    samples: AtomicU64,
    sum: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
}

impl Live {
    fn new() -> Self {
        Self {
            min: AtomicU64::new(u64::MAX),
            ..Self::default()
        }
    }

    /// By the thread that measures only.
    fn add(&self, value: u64) {
        let change = |field: &AtomicU64, with: fn(u64, u64) -> u64, value| {
            field.store(
                with(field.load(Ordering::Relaxed), value),
                Ordering::Relaxed,
            );
        };
        change(&self.samples, u64::saturating_add, 1);
        change(&self.sum, u64::saturating_add, value);
        change(&self.min, u64::min, value);
        change(&self.max, u64::max, value);
    }
}

/// What a thread does.
struct Task {
    what: What,
    vcpu: VcpuId,
    cpus: CpuSet,
    fifo: Option<FifoPriority>,
    period: Duration,
    end: Arc<AtomicBool>,
    live: Arc<Live>,
}

impl Host {
    /// Starts a thread for each vCPU of the plan.
    ///
    /// # Errors
    /// A thread does not start or cannot be placed.
    pub fn start(plan: &Plan, what: What) -> Result<Self, LatencyError> {
        if let Some(cpus) = &plan.spec.platform.emulator_cpus {
            affinity::place_process(cpus)?;
        }
        let end = Arc::new(AtomicBool::new(false));
        let mut host = Self {
            started: Instant::now(),
            threads: Vec::new(),
            end,
        };
        for (vcpu, cpus) in plan.places() {
            let task = Task {
                what,
                vcpu,
                cpus,
                fifo: plan.spec.cpus.sched,
                period: plan.timing.period,
                end: Arc::clone(&host.end),
                live: Arc::new(Live::new()),
            };
            host.threads.push(spawn(task)?);
        }
        host.started = Instant::now();
        Ok(host)
    }

    /// How long it has been measuring.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// How it goes.
    #[must_use]
    pub fn look(&self) -> Progress {
        let lives = || self.threads.iter().map(|thread| &thread.live);
        let sum = |field: fn(&Live) -> &AtomicU64| -> u64 {
            lives()
                .map(|live| field(live).load(Ordering::Relaxed))
                .sum()
        };
        let samples = sum(|live| &live.samples);
        if samples == 0 {
            return Progress::default();
        }
        let least = lives().map(|live| live.min.load(Ordering::Relaxed)).min();
        let most = lives().map(|live| live.max.load(Ordering::Relaxed)).max();
        Progress {
            samples,
            min: least.unwrap_or(0),
            mean: sum(|live| &live.sum) as f64 / samples as f64,
            max: most.unwrap_or(0),
        }
    }

    /// Ends the threads and tells what they measured.
    ///
    /// # Errors
    /// A thread ended early.
    pub fn finish(mut self) -> Result<Vec<Series>, LatencyError> {
        self.end.store(true, Ordering::Relaxed);
        let lost = || system("measure")(io::Error::other("a thread ended early"));
        let mut all = Vec::new();
        for thread in self.threads.drain(..) {
            let mut series = thread.done.recv().map_err(|_| lost())?;
            // A thread that waits for its CPU measures until it had it.
            series.elapsed = self.started.elapsed();
            series.scheduled = thread.watched.as_ref().and_then(Watched::since);
            drop(thread.release);
            thread.handle.join().map_err(|_| lost())?;
            all.push(series);
        }
        Ok(all)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// Starts a thread and waits until it is where it has to be.
fn spawn(task: Task) -> Result<Thread, LatencyError> {
    let name = format!("host{}", task.vcpu);
    let thread_name = name.clone();
    let live = Arc::clone(&task.live);
    let (placed, place) = mpsc::channel();
    let (sender, done) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let handle = thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            let own =
                affinity::place_current(&thread_name, &task.cpus).and_then(|()| match task.fifo {
                    Some(priority) => affinity::schedule_fifo_current(&thread_name, priority),
                    None => Ok(()),
                });
            let refused = own.is_err();
            let _ = placed.send(own);
            if !refused {
                let _ = sender.send(task.measure());
            }
            hold(&released);
        })
        .map_err(system("start a measuring thread"))?;
    let ended = |_| system("start a measuring thread")(io::Error::other("it ended early"));
    place.recv().map_err(ended)??;
    Ok(Thread {
        live,
        done,
        release,
        handle,
        watched: Watched::named(&name),
    })
}

/// Waits until what the scheduler counted of this thread has been read.
fn hold(released: &Receiver<()>) {
    let _ = released.recv();
}

impl Task {
    fn measure(&self) -> Series {
        let cpus = format_cpu_list(&self.cpus);
        let mut series = Series::new(self.what, self.vcpu, cpus);
        match self.what {
            What::Nanosleep => self.sleep(&mut series),
            _ => self.spin(&mut series),
        }
        series
    }

    fn note(&self, series: &mut Series, late: u64) {
        series.late.record(late);
        self.live.add(late);
    }

    fn ended(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    /// Reads the time-stamp counter without a pause: where two readings lie
    /// apart, something else ran.
    fn spin(&self, series: &mut Series) {
        let rate = Rate::measure();
        let period = rate.ticks(self.period).max(1);
        let mut last = ticks();
        let (mut turn, mut longest) = (last.wrapping_add(period), 0);
        loop {
            let now = ticks();
            longest = longest.max(now.saturating_sub(last));
            last = now;
            if now < turn {
                continue;
            }
            self.note(series, rate.nanoseconds(longest));
            longest = 0;
            let passed = (now - turn) / period;
            series.missed += passed;
            turn += (passed + 1) * period;
            if self.ended() {
                return;
            }
        }
    }

    /// Sleeps until times that are multiples of the period from the start.
    fn sleep(&self, series: &mut Series) {
        // What is no real-time thread is else woken up to 50 µs late, so that timers
        // are gathered (prctl(2), PR_SET_TIMERSLACK). KVM's timers have no such slack.
        let _ = nix::sys::prctl::set_timerslack(1);
        let period = u64::try_from(self.period.as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        let mut deadline = monotonic() + period;
        while !self.ended() {
            let until = TimeSpec::from_duration(Duration::from_nanos(deadline));
            let flags = ClockNanosleepFlags::TIMER_ABSTIME;
            if clock_nanosleep(ClockId::CLOCK_MONOTONIC, flags, &until).is_err() {
                // A signal, which is not ours to time.
                continue;
            }
            let now = monotonic();
            self.note(series, now.saturating_sub(deadline));
            let passed = now.saturating_sub(deadline) / period;
            series.missed += passed;
            deadline += (passed + 1) * period;
        }
    }
}

/// How fast the time-stamp counter counts.
#[derive(Clone, Copy)]
struct Rate {
    nanoseconds: u64,
    ticks: u64,
}

impl Rate {
    /// Against the clock, for 20 ms: the error is that of reading it, some ten parts
    /// in a million.
    fn measure() -> Self {
        let (from, began) = (monotonic(), ticks());
        let (mut nanoseconds, mut counted) = (1, 1);
        while nanoseconds < 20_000_000 {
            nanoseconds = monotonic().saturating_sub(from).max(1);
            counted = ticks().saturating_sub(began).max(1);
        }
        Self {
            nanoseconds,
            ticks: counted,
        }
    }

    fn nanoseconds(self, ticks: u64) -> u64 {
        let all = u128::from(ticks) * u128::from(self.nanoseconds) / u128::from(self.ticks);
        u64::try_from(all).unwrap_or(u64::MAX)
    }

    fn ticks(self, time: Duration) -> u64 {
        let all = time.as_nanos() * u128::from(self.ticks) / u128::from(self.nanoseconds);
        u64::try_from(all).unwrap_or(u64::MAX)
    }
}

fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it only reads.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// `CLOCK_MONOTONIC`, in nanoseconds.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_times_convert_back() {
        let rate = Rate {
            nanoseconds: 1_000,
            ticks: 2_450,
        };
        assert_eq!(rate.nanoseconds(2_450_000), 1_000_000);
        assert_eq!(rate.ticks(Duration::from_millis(1)), 2_450_000);
    }
}
