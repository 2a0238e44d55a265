//! What clients ask for.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::mpsc::Sender;

use godwit_api::config::{NetConfig, VmConfig};
use godwit_api::error::{ApiError, ErrorKind};
use godwit_api::events::{Event as Told, EventKind};
use godwit_api::handler::{Handler, Outcome, Reply};
use godwit_api::request::Request;
use godwit_api::response::{Counters, DeviceAdded, DeviceNode, Info, Ping, Response, VmState};

use super::answer::{failed, refused, undefined};
use super::phase::{self, Phase, Verb};
use super::work::Then;
use super::{Control, Definition, Ending, Event, PROCESS_ENDS, RunError, State};
use crate::kvm::stats::Reading;
use crate::machine::{Machine, RemoveError};

/// The API's way to the loop.
#[derive(Debug)]
pub struct Door(Mutex<Sender<Event>>);

impl Door {
    /// A door to the loop behind `events`.
    #[must_use]
    pub fn new(events: Sender<Event>) -> Self {
        Self(Mutex::new(events))
    }
}

impl Handler for Door {
    fn handle(&self, request: Request, reply: Reply) {
        if matches!(request, Request::Ping) {
            reply.send(Ok(Response::Ping(ping())));
            return;
        }
        let events = self.0.lock();
        let events = events.unwrap_or_else(std::sync::PoisonError::into_inner);
        // Without a loop the process is ending, and the reply says so as it drops.
        let _ = events.send(Event::Request(request, reply));
    }
}

fn ping() -> Ping {
    let version = env!("CARGO_PKG_VERSION");
    Ping {
        build_version: format!("v{version}"),
        version: version.to_owned(),
        pid: std::process::id().into(),
        features: Vec::new(),
    }
}

fn verb(request: &Request) -> Option<Verb> {
    Some(match request {
        Request::Create(_) => Verb::Create,
        Request::Boot => Verb::Boot,
        Request::Shutdown => Verb::Shutdown,
        Request::Reboot => Verb::Reboot,
        Request::Delete => Verb::Delete,
        Request::Pause => Verb::Pause,
        Request::Resume => Verb::Resume,
        Request::PowerButton => Verb::PowerButton,
        Request::Info => Verb::Info,
        Request::Counters => Verb::Counters,
        Request::AddNet(..) => Verb::AddNet,
        Request::RemoveDevice(_) => Verb::RemoveDevice,
        Request::Snapshot(_) => Verb::Snapshot,
        Request::Restore(..) => Verb::Restore,
        Request::SendMigration(_) => Verb::Send,
        Request::ReceiveMigration(..) => Verb::Receive,
        Request::CancelMigration => Verb::Cancel,
        Request::Ping | Request::ShutdownVmm | Request::MigrationProgress | Request::Metrics => {
            return None;
        }
    })
}

const DONE: Outcome = Ok(Response::Done);

impl Control {
    pub(super) fn request(
        &mut self,
        state: State,
        request: Request,
        reply: Reply,
    ) -> Result<State, RunError> {
        if let Some(verb) = verb(&request)
            && let Err(refusal) = phase::check(state.phase(), verb)
        {
            reply.send(Err(refused(refusal)));
            return Ok(state);
        }
        match (request, state) {
            (Request::Ping, state) => {
                reply.send(Ok(Response::Ping(ping())));
                Ok(state)
            }
            (Request::Metrics, state) => {
                self.metrics.answer(reply);
                Ok(state)
            }
            (Request::ShutdownVmm, state) => self.shutdown_vmm(state, reply),
            (Request::Create(config), state) => {
                let (outcome, state) = match self.create(*config) {
                    Ok(()) => (DONE, State::Created),
                    Err(error) => (Err(error), state),
                };
                reply.send(outcome);
                Ok(state)
            }
            (Request::Boot, state) => self.boot(state, reply),
            (Request::Reboot, State::Running(machine) | State::Paused(machine)) => {
                self.start_reboot(machine, Some(reply))
            }
            (Request::Shutdown, State::Running(machine) | State::Paused(machine)) => {
                self.start_stop(machine, Then::ShutDown(reply))
            }
            (
                Request::Delete,
                State::Running(machine)
                | State::Paused(machine)
                | State::Unsettled(machine)
                | State::Lost(machine),
            ) => self.start_stop(machine, Then::Delete(reply)),
            (Request::Delete, _) => Ok(self.deleted(reply)),
            (Request::Pause, State::Running(machine)) => self.start_pause(machine, reply),
            (Request::Resume, State::Paused(machine) | State::Unsettled(machine)) => {
                self.start_resume(machine, reply)
            }
            (Request::Info, state) => {
                reply.send(self.info(&state));
                Ok(state)
            }
            (Request::Counters, State::Running(machine)) => {
                reply.send(Ok(Response::Counters(counters(&machine))));
                Ok(State::Running(machine))
            }
            (Request::Counters, State::Paused(machine)) => {
                reply.send(Ok(Response::Counters(counters(&machine))));
                Ok(State::Paused(machine))
            }
            (Request::AddNet(net, fds), state @ (State::Created | State::Shutdown)) => {
                reply.send(self.add_net(*net, fds));
                Ok(state)
            }
            (Request::RemoveDevice(device), state @ (State::Created | State::Shutdown)) => {
                reply.send(self.remove_device(&device.id));
                Ok(state)
            }
            (Request::Snapshot(request), State::Paused(machine)) => {
                self.start_snapshot(machine, &request.destination_url, reply)
            }
            (Request::Restore(request, fds), _) => self.start_restore(request, fds, reply),
            (Request::PowerButton, State::Running(machine)) => {
                reply.send(match machine.press_power_button() {
                    Ok(()) => DONE,
                    Err(error) => Err(failed(Verb::PowerButton, &error)),
                });
                Ok(State::Running(machine))
            }
            (Request::AddNet(net, fds), State::Running(mut machine)) => {
                reply.send(self.plug_net(&mut machine, *net, fds));
                Ok(State::Running(machine))
            }
            (Request::AddNet(net, fds), State::Paused(mut machine)) => {
                reply.send(self.plug_net(&mut machine, *net, fds));
                Ok(State::Paused(machine))
            }
            (Request::RemoveDevice(device), State::Running(machine)) => {
                reply.send(unplug(&machine, &device.id));
                Ok(State::Running(machine))
            }
            (Request::RemoveDevice(device), State::Paused(machine)) => {
                reply.send(unplug(&machine, &device.id));
                Ok(State::Paused(machine))
            }
            (Request::SendMigration(request), State::Running(machine)) => {
                self.send(machine, true, *request, reply)
            }
            (Request::SendMigration(request), State::Paused(machine)) => {
                self.send(machine, false, *request, reply)
            }
            (Request::ReceiveMigration(request, fds), state) => {
                self.receive(state, *request, fds, reply)
            }
            (Request::MigrationProgress, state) => {
                self.watched = true;
                reply.send(self.progress());
                Ok(state)
            }
            (Request::CancelMigration, State::Busy(work)) => {
                work.cancel();
                self.cancelled = true;
                reply.send(DONE);
                Ok(State::Busy(work))
            }
            (request, state) => {
                let verb = verb(&request);
                let error = ApiError::not_supported("this build does not do it yet");
                reply.send(Err(match verb {
                    Some(verb) => error.during(verb.attempt()),
                    None => error,
                }));
                Ok(state)
            }
        }
    }

    fn create(&mut self, mut config: VmConfig) -> Result<(), ApiError> {
        for net in &mut config.net {
            // Numbers of descriptors are the client's.
            net.fds = None;
        }
        let definition =
            Definition::new(config).map_err(|error| undefined(Verb::Create, &error))?;
        self.definition = Some(definition);
        Ok(())
    }

    fn boot(&mut self, state: State, reply: Reply) -> Result<State, RunError> {
        let Some(definition) = &self.definition else {
            return Ok(state);
        };
        match definition.spec() {
            Ok(spec) => self.start_boot(spec, Some(reply)),
            Err(error) => {
                reply.send(Err(undefined(Verb::Boot, &error)));
                Ok(state)
            }
        }
    }

    fn shutdown_vmm(&mut self, state: State, reply: Reply) -> Result<State, RunError> {
        if let State::Busy(work) = &state {
            work.cancel_because(PROCESS_ENDS.to_owned());
            self.deferred
                .push_back(Event::Request(Request::ShutdownVmm, reply));
            return Ok(state);
        }
        self.end(state, Ending::Terminated, Some(reply))
    }

    fn info(&self, state: &State) -> Outcome {
        let Some(definition) = &self.definition else {
            // Not yet, while one is being restored.
            return Err(refused(phase::Refusal {
                verb: Verb::Info,
                phase: Phase::Empty,
            }));
        };
        let config = definition.config();
        let memory = &config.memory;
        let zones = memory.zones.iter().map(|zone| zone.size);
        Ok(Response::Info(Box::new(Info {
            state: shown(state.phase()),
            memory_actual_size: memory.size.unwrap_or(0).max(zones.sum()),
            device_tree: match state {
                State::Running(machine) | State::Paused(machine) => Some(device_tree(machine)),
                _ => None,
            },
            config: Box::new(config.clone()),
        })))
    }

    fn add_net(&mut self, mut net: NetConfig, fds: Vec<OwnedFd>) -> Outcome {
        net.fds = None;
        let Some(definition) = &mut self.definition else {
            return DONE;
        };
        definition
            .add_net(net, fds)
            .map(|_| Response::Done)
            .map_err(|error| undefined(Verb::AddNet, &error))
    }

    /// Adds a network device to a machine that runs.
    fn plug_net(
        &mut self,
        machine: &mut Machine,
        mut net: NetConfig,
        fds: Vec<OwnedFd>,
    ) -> Outcome {
        net.fds = None;
        let Some(definition) = &mut self.definition else {
            return DONE;
        };
        let (id, spec) = definition
            .plug_net(net, fds)
            .map_err(|error| undefined(Verb::AddNet, &error))?;
        match machine.add_net(&spec) {
            Ok(at) => {
                let bdf = at.to_string();
                let event = Told::from(EventKind::DeviceAdded).with("id", &id);
                self.tell(event.with("bdf", &bdf));
                Ok(Response::DeviceAdded(DeviceAdded { id, bdf }))
            }
            Err(error) => {
                definition.remove(&id);
                Err(failed(Verb::AddNet, &error))
            }
        }
    }

    /// The guest let go of devices.
    pub(super) fn devices_left(&mut self, mut state: State) -> State {
        if let State::Running(machine) | State::Paused(machine) = &mut state {
            for (id, at) in machine.take_ejected() {
                if let Some(definition) = &mut self.definition {
                    definition.remove(&id);
                }
                tracing::info!("Device {id} left {at}");
                let event = Told::from(EventKind::DeviceRemoved).with("id", &id);
                self.tell(event.with("bdf", at));
            }
        }
        state
    }

    fn remove_device(&mut self, id: &str) -> Outcome {
        let definition = self.definition.as_mut();
        if definition.is_some_and(|definition| definition.remove(id)) {
            DONE
        } else {
            Err(no_such_device(Verb::RemoveDevice, id))
        }
    }
}

fn unplug(machine: &Machine, id: &str) -> Outcome {
    match machine.request_removal(id) {
        Ok(()) => DONE,
        Err(RemoveError::NoSuchDevice(id)) => Err(no_such_device(Verb::RemoveDevice, &id)),
        Err(error) => Err(failed(Verb::RemoveDevice, &error)),
    }
}

fn no_such_device(verb: Verb, id: &str) -> ApiError {
    ApiError::new(
        ErrorKind::NotFound,
        format!("the VM has no device {id:?}; vm.info lists them"),
    )
    .during(verb.attempt())
}

/// The phase as `vm.info` names it: no name but the peer's four.
fn shown(phase: Phase) -> VmState {
    match phase {
        Phase::Empty | Phase::Created | Phase::Booting | Phase::Receiving => VmState::Created,
        Phase::Running | Phase::Pausing | Phase::Stopping | Phase::Rebooting | Phase::Sending => {
            VmState::Running
        }
        Phase::Paused
        | Phase::Resuming
        | Phase::Snapshotting
        | Phase::Restoring
        | Phase::Unsettled
        | Phase::Lost => VmState::Paused,
        Phase::Shutdown => VmState::Shutdown,
    }
}

fn device_tree(machine: &Machine) -> std::collections::BTreeMap<String, DeviceNode> {
    let functions = machine.functions.iter().map(|function| {
        let node = DeviceNode {
            id: function.id.clone(),
            pci_bdf: Some(function.at.to_string()),
            ..DeviceNode::default()
        };
        (function.id.clone(), node)
    });
    functions.collect()
}

fn counters(machine: &Machine) -> Counters {
    let functions = machine.functions.iter().map(|function| {
        let counters = function.device.with_device(|device| device.counters());
        let counters = counters.into_iter().map(|(name, n)| (name.to_owned(), n));
        (function.id.clone(), counters.collect())
    });
    let kvm = machine.stats.read();
    let vm = kvm
        .vm
        .iter()
        .map(|vm| (Counters::VM.to_owned(), of_kvm(vm)));
    let vcpus = kvm.vcpus.iter().map(|(vcpu, reading)| {
        let name = format!("{}{vcpu}", Counters::VCPU);
        let mut counters = of_kvm(reading);
        if let Some(handle) = machine.vcpus.get(usize::from(*vcpu)) {
            counters.insert(Counters::EXITS_TO_USER_SPACE.to_owned(), handle.exits());
        }
        (name, counters)
    });
    Counters(functions.chain(vm).chain(vcpus).collect())
}

/// All but histograms, which `/metrics` has.
fn of_kvm(reading: &Reading) -> BTreeMap<String, u64> {
    let single = reading.iter().filter_map(|(found, values)| match values {
        [value] => Some((found.name().to_owned(), *value)),
        _ => None,
    });
    single.collect()
}
