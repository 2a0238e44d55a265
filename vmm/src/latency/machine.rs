//! Measuring in a guest: the machine, its rings, and what KVM counts meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use godwit_devices::GuestRam;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::scheduled::Watched;
use super::{Exits, LatencyError, Plan, Progress, Series, Timer, Wait, What, guest};
use crate::builder::{self, Start, Told};
use crate::host::{HostResources, MemorySource, Origin};
use crate::kvm::stats::{KvmReadings, Sort};
use crate::machine::Machine;
use crate::spec::{VcpuId, format_cpu_list};
use crate::vcpu::{Stop, VcpuEvent};

/// Samples of each vCPU that are left out: its first ones meet code that no cache has.
const WARM_UP: u64 = 2;
/// How long a guest may take until its timers run, where it is interpreted by a
/// machine that does something else.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of an APIC timer of KVM's: one count is a nanosecond
/// (kernel: Documentation/virt/kvm/api.rst, `KVM_CAP_X86_APIC_BUS_CYCLES_NS`).
const APIC_COUNTS_PER_MS: u128 = 1_000_000;

/// A guest that measures.
#[derive(Debug)]
pub struct Guest {
    machine: Machine,
    stopped: Receiver<VcpuEvent>,
    vcpus: Vec<Measured>,
    khz: u32,
    started: Option<Instant>,
    before: Option<Counted>,
}

#[derive(Debug)]
struct Measured {
    series: Series,
    block: GuestAddress,
    taken: u64,
    watched: Option<Watched>,
}

/// What was counted at one moment.
#[derive(Debug)]
struct Counted {
    at: Instant,
    kvm: KvmReadings,
    to_user_space: Vec<u64>,
}

impl Guest {
    /// Builds the machine; nothing runs yet.
    ///
    /// # Errors
    /// See [`LatencyError`].
    pub fn build(plan: &Plan) -> Result<Self, LatencyError> {
        let (events, _) = mpsc::channel();
        let origin = Origin {
            serial: Vec::new(),
            memory: MemorySource::New,
            home: &plan.home,
        };
        let host =
            HostResources::open(&plan.spec, origin, &events).map_err(builder::BuildError::from)?;
        let vcpus = plan.places().len() as u64;
        let (needed, has) = (
            guest::memory_needed(vcpus),
            memory_from_zero(host.memory.ram()),
        );
        if has < needed {
            return Err(LatencyError::Memory { vcpus, needed, has });
        }
        let (stops, stopped) = mpsc::channel();
        let told = Told {
            report: Arc::new(move |event| {
                // Who has finished measuring does not listen.
                let _ = stops.send(event);
            }),
            ejected: Box::new(|| ()),
        };
        let machine = builder::build(&plan.spec, host, Start::Boot, told)?;
        let khz = machine.processors.tsc_khz;
        if khz == 0 {
            return Err(LatencyError::Frequency);
        }
        let what = match plan.timing.timer {
            Timer::Deadline if machine.vm.has_tsc_deadline() => What::TscDeadline,
            Timer::Deadline | Timer::OneShot => What::OneShot,
        };
        let measured = plan.places().into_iter().map(|(vcpu, cpus)| Measured {
            series: Series::new(what, vcpu, format_cpu_list(&cpus)),
            block: guest::block(vcpu),
            taken: 0,
            watched: None,
        });
        let guest = Self {
            vcpus: measured.collect(),
            machine,
            stopped,
            khz,
            started: None,
            before: None,
        };
        guest.prepare(plan, what)?;
        Ok(guest)
    }

    /// Whether the timer has the mode that counts in ticks of the time-stamp counter.
    #[must_use]
    pub fn has_tsc_deadline(&self) -> bool {
        self.machine.vm.has_tsc_deadline()
    }

    /// Writes what the guest is to do, and sets each vCPU to its start.
    fn prepare(&self, plan: &Plan, what: What) -> Result<(), LatencyError> {
        let khz = u128::from(self.khz);
        let period = plan.timing.period.as_nanos() * khz / 1_000_000;
        let words = [
            (
                guest::PERIOD,
                u64::try_from(period).unwrap_or(u64::MAX).max(1),
            ),
            (guest::MODE, u64::from(what == What::OneShot)),
            (guest::WAIT, u64::from(plan.timing.wait == Wait::Poll)),
            (
                guest::SCALE,
                u64::try_from((APIC_COUNTS_PER_MS << 32) / khz).unwrap_or(u64::MAX),
            ),
        ];
        for vcpu in &self.vcpus {
            for (at, word) in words {
                vcpu.store(self.ram(), at, word);
            }
        }
        let begun: Vec<_> = self
            .machine
            .vcpus
            .iter()
            .zip(&self.vcpus)
            .map(|(handle, vcpu)| {
                handle.begin(guest::entry(guest::entry_point(), vcpu.series.vcpu))
            })
            .collect();
        for answer in begun {
            answer.wait()?;
        }
        Ok(())
    }

    fn ram(&self) -> &GuestRam {
        self.machine.host.memory.ram()
    }

    /// Lets the vCPUs run.
    pub fn start(&mut self) {
        self.started = Some(Instant::now());
        self.machine.resume();
    }

    /// Begins to measure once every vCPU's timer has fired a few times; whether it
    /// does.
    ///
    /// # Errors
    /// A vCPU stopped, or its timer does not fire.
    pub fn begin(&mut self) -> Result<bool, LatencyError> {
        self.check()?;
        let silent = |vcpu: &&Measured| vcpu.load(self.ram(), guest::HEAD) < WARM_UP;
        if let Some(silent) = self.vcpus.iter().find(silent) {
            let elapsed = self
                .started
                .map_or(Duration::ZERO, |started| started.elapsed());
            if elapsed > PATIENCE {
                return Err(LatencyError::Silent {
                    vcpu: silent.series.vcpu,
                    elapsed,
                });
            }
            return Ok(false);
        }
        let ram = Arc::clone(self.machine.host.memory.ram());
        for vcpu in &mut self.vcpus {
            vcpu.taken = vcpu.load(&ram, guest::HEAD);
            vcpu.store(&ram, guest::TAIL, vcpu.taken);
            // Those of the start do not count.
            vcpu.series.missed = vcpu.load(&ram, guest::MISSED);
            vcpu.series.lost = vcpu.load(&ram, guest::LOST);
            vcpu.watched = Watched::named(&format!("vcpu{}", vcpu.series.vcpu));
        }
        self.before = Some(self.count());
        Ok(true)
    }

    /// How long it has been measuring.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.before
            .as_ref()
            .map_or(Duration::ZERO, |before| before.at.elapsed())
    }

    /// How often the rings have to be looked at.
    #[must_use]
    pub fn interval(plan: &Plan) -> Duration {
        let entries = u32::try_from(guest::RING_ENTRIES / 4).unwrap_or(u32::MAX);
        let filled = plan.timing.period.saturating_mul(entries);
        filled.clamp(Duration::from_millis(1), Duration::from_millis(100))
    }

    /// Takes the samples that there are.
    ///
    /// # Errors
    /// A vCPU stopped.
    pub fn look(&mut self) -> Result<Progress, LatencyError> {
        self.check()?;
        let (khz, ram) = (self.khz, Arc::clone(self.machine.host.memory.ram()));
        for vcpu in &mut self.vcpus {
            vcpu.take(&ram, khz);
        }
        Ok(Progress::of(
            self.vcpus.iter().map(|vcpu| &vcpu.series.late),
        ))
    }

    /// Stops the vCPUs and tells what was measured.
    ///
    /// # Errors
    /// A vCPU stopped before.
    pub fn finish(mut self) -> Result<Vec<Series>, LatencyError> {
        let after = self.count();
        for vcpu in &mut self.vcpus {
            vcpu.series.scheduled = vcpu.watched.as_ref().and_then(Watched::since);
        }
        self.machine.pause();
        self.look()?;
        let ram = Arc::clone(self.machine.host.memory.ram());
        let before = self.before.take();
        for (index, vcpu) in self.vcpus.iter_mut().enumerate() {
            let less = |at: u64, before: u64| vcpu.load(&ram, at).saturating_sub(before);
            (vcpu.series.missed, vcpu.series.lost) = (
                less(guest::MISSED, vcpu.series.missed),
                less(guest::LOST, vcpu.series.lost),
            );
            let (before, id) = (before.as_ref(), vcpu.series.vcpu);
            vcpu.series.elapsed = before.map_or(Duration::ZERO, |before| after.at - before.at);
            vcpu.series.exits = before.map(|before| exits(before, &after, index, id));
        }
        Ok(self.vcpus.into_iter().map(|vcpu| vcpu.series).collect())
    }

    fn count(&self) -> Counted {
        Counted {
            at: Instant::now(),
            kvm: self.machine.stats.read(),
            to_user_space: self.machine.vcpus.iter().map(|vcpu| vcpu.exits()).collect(),
        }
    }

    fn check(&self) -> Result<(), LatencyError> {
        if let Ok(VcpuEvent { vcpu, stop }) = self.stopped.try_recv() {
            let reason = match stop {
                Stop::PowerOff => "it switched the machine off".to_owned(),
                Stop::Reset => "it reset the machine".to_owned(),
                Stop::TripleFault => "a triple fault".to_owned(),
                Stop::Failed(error) => error.to_string(),
            };
            return Err(LatencyError::Stopped { vcpu, reason });
        }
        let lacks =
            |vcpu: &&Measured| vcpu.load(self.ram(), guest::STATE) == guest::STATE_NO_X2APIC;
        match self.vcpus.iter().find(lacks) {
            Some(vcpu) => Err(LatencyError::X2Apic(vcpu.series.vcpu)),
            None => Ok(()),
        }
    }
}

impl Measured {
    fn at(&self, offset: u64) -> GuestAddress {
        GuestAddress(self.block.0 + offset)
    }

    /// The blocks are in memory: [`Guest::build`] has looked.
    fn load(&self, ram: &GuestRam, offset: u64) -> u64 {
        ram.load(self.at(offset), Ordering::Acquire).unwrap_or(0)
    }

    fn store(&self, ram: &GuestRam, offset: u64, word: u64) {
        if let Err(error) = ram.store(word, self.at(offset), Ordering::Release) {
            tracing::error!("Guest memory at {:#x}: {error}", self.at(offset).0);
        }
    }

    fn take(&mut self, ram: &GuestRam, khz: u32) {
        // The guest is ours, but what it wrote is still only a number.
        let head = self.load(ram, guest::HEAD);
        let there = head.saturating_sub(self.taken).min(guest::RING_ENTRIES);
        for number in self.taken..self.taken + there {
            let slot = number % guest::RING_ENTRIES;
            let ticks = self.load(ram, guest::RING + slot * 8).cast_signed();
            self.series.early += u64::from(ticks < 0);
            self.series.late.record(nanoseconds(ticks, khz));
        }
        self.taken += there;
        self.store(ram, guest::TAIL, self.taken);
    }
}

fn nanoseconds(ticks: i64, khz: u32) -> u64 {
    let ticks = u128::try_from(ticks).unwrap_or(0);
    u64::try_from(ticks * 1_000_000 / u128::from(khz.max(1))).unwrap_or(u64::MAX)
}

/// How much memory there is without a hole from address 0 on.
fn memory_from_zero(ram: &GuestRam) -> u64 {
    use vm_memory::GuestMemoryRegion;
    ram.find_region(GuestAddress(0))
        .map_or(0, GuestMemoryRegion::len)
}

/// What was counted of the vCPU, the `index`th, in between.
fn exits(before: &Counted, after: &Counted, index: usize, vcpu: VcpuId) -> Exits {
    let to_user_space = |counted: &Counted| counted.to_user_space.get(index).copied();
    let reading = |counted: &'_ Counted| {
        let mut vcpus = counted.kvm.vcpus.iter();
        let (_, reading) = vcpus.find(|(id, _)| *id == vcpu.0)?;
        Some(reading.clone())
    };
    let mut kvm = BTreeMap::new();
    if let (Some(before), Some(after)) = (reading(before), reading(after)) {
        for (found, values) in after.iter() {
            let (Sort::Cumulative, Some(&now)) = (found.sort(), values.first()) else {
                continue;
            };
            let then = before.value(found.name()).map_or(0, |(_, value)| value);
            if now != then {
                kvm.insert(found.name().to_owned(), now.saturating_sub(then));
            }
        }
    }
    let (then, now) = (to_user_space(before), to_user_space(after));
    Exits {
        to_user_space: now.unwrap_or(0).saturating_sub(then.unwrap_or(0)),
        kvm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds() {
        assert_eq!(nanoseconds(2_450, 2_450_000), 1_000);
        assert_eq!(nanoseconds(-5, 2_450_000), 0);
        assert_eq!(nanoseconds(i64::MAX, 1), u64::MAX);
    }
}
