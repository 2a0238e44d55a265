//! A machine that leaves.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use godwit_api::config::VmConfig;
use godwit_migration::cancel::Cancel;
use godwit_migration::guest::{Cause, DirtyLog, LogStart, Source};
use godwit_migration::memory::Region;
use godwit_migration::phase::Phase;
use godwit_migration::source::{GuestIs, SendError, SendFailure};

use super::log::MachineLog;
use super::places::served_by_taps;
use crate::machine::{Description, Machine};
use crate::memory::regions;

/// A machine on its way to another instance.
#[derive(Debug)]
pub struct Departure {
    /// `None` once it was released.
    machine: Option<Box<Machine>>,
    config: VmConfig,
    /// Whether its guest runs, and is to run where it arrives.
    running: bool,
    log: Option<Arc<MachineLog>>,
    stopped: bool,
}

/// The guest ended, or asked for a reset, while it was leaving.
#[derive(Debug, thiserror::Error)]
#[error("The guest switched itself off or reset while it was migrating")]
pub struct GuestEnded;

/// The machine was released before.
#[derive(Debug, thiserror::Error)]
#[error("The machine is gone")]
struct Gone;

impl Departure {
    /// `machine`, made from `config`, is to leave; it is `running` or paused.
    #[must_use]
    pub fn new(machine: Box<Machine>, config: VmConfig, running: bool) -> Self {
        Self {
            machine: Some(machine),
            config,
            running,
            log: None,
            stopped: false,
        }
    }

    /// Waits until all of its memory is here: only what is can travel.
    ///
    /// # Errors
    /// Part of it is lost, or `cancel` was asked for.
    pub fn settle(&self, cancel: &Cancel) -> Result<(), SendFailure> {
        let Some(machine) = &self.machine else {
            return Ok(());
        };
        machine
            .wait_filled(|| cancel.is_cancelled())
            .map_err(|unfilled| SendFailure {
                phase: Phase::Connect,
                guest: GuestIs::Here,
                error: SendError::Describe(match cancel.reason() {
                    Some(reason) => reason.into(),
                    None => unfilled.into(),
                }),
            })
    }

    /// Whether the guest ran when it was to leave.
    #[must_use]
    pub fn was_running(&self) -> bool {
        self.running
    }

    /// The machine, if it is still here.
    #[must_use]
    pub fn into_machine(self) -> Option<Box<Machine>> {
        self.machine
    }

    fn machine(&self) -> Result<&Machine, Gone> {
        self.machine.as_deref().ok_or(Gone)
    }
}

impl Source for Departure {
    fn description(&mut self) -> Result<Vec<u8>, Cause> {
        let description = Description::of(self.machine()?, &self.config, self.running)?;
        Ok(description.encode()?)
    }

    fn regions(&self) -> Result<Vec<Region>, Cause> {
        Ok(regions(self.machine()?.host.memory.ram())?)
    }

    fn device_files(&self) -> Result<Vec<OwnedFd>, Cause> {
        let machine = self.machine()?;
        let mut files = Vec::new();
        for id in served_by_taps(&self.config) {
            let function = machine.functions.iter().find(|function| function.id == id);
            let function = function.ok_or_else(|| format!("no device {id} is attached"))?;
            files.extend(function.device.with_device(|device| device.files())?);
        }
        if let Some(serial) = &machine.host.serial {
            files.extend(serial.handle.hand_over()?);
        }
        Ok(files)
    }

    fn start_log(&mut self) -> Result<LogStart, Cause> {
        let machine = self.machine()?;
        let functions = machine.functions.iter();
        let functions = functions.map(|function| Arc::clone(&function.device));
        let ram = machine.host.memory.ram();
        let log = MachineLog::start(&machine.vm, ram, functions.collect())?;
        let beginning = log.beginning();
        self.log = Some(Arc::new(log));
        Ok(beginning)
    }

    fn log(&self) -> Arc<dyn DirtyLog> {
        match &self.log {
            Some(log) => Arc::clone(log) as _,
            None => Arc::new(NoLog),
        }
    }

    fn stop(&mut self) -> Result<(), Cause> {
        self.stopped = true;
        let machine = self.machine()?;
        machine.stop_vcpus();
        if machine.vcpus.iter().any(|vcpu| vcpu.has_stopped()) {
            return Err(GuestEnded.into());
        }
        machine.stop_devices();
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<u8>, Cause> {
        let machine = self.machine()?;
        for function in &machine.functions {
            function.device.with_device(|device| device.release())?;
        }
        if let Some(serial) = &machine.host.serial {
            serial.handle.leave_note()?;
        }
        Ok(machine.save()?.encode()?)
    }

    fn resume(&mut self) -> Result<(), Cause> {
        self.log = None;
        let stopped = std::mem::take(&mut self.stopped);
        let running = self.running;
        let machine = self.machine()?;
        machine.claim_serial();
        for function in machine.functions.iter().filter(|_| stopped) {
            function.device.with_device(|device| device.acquire())?;
        }
        if stopped && running {
            machine.resume();
        }
        Ok(())
    }

    fn release(&mut self) {
        if let Some(log) = self.log.take() {
            log.leave_on();
        }
        if let Ok(Some(serial)) = self.machine().map(|machine| &machine.host.serial) {
            serial.handle.disown();
        }
        self.machine = None;
    }
}

/// Before the log is started.
struct NoLog;

impl DirtyLog for NoLog {
    fn dirty(&self, _: usize, _: &mut godwit_migration::bitmap::Bitmap) -> Result<(), Cause> {
        Err("the dirty log is not started".into())
    }

    fn clear(&self, _: usize, _: u64, _: &[u64]) -> Result<(), Cause> {
        Err("the dirty log is not started".into())
    }
}
