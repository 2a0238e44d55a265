//! A machine as described: its config, and the descriptors that came with it.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};

use godwit_api::config::{NetConfig, VmConfig};
use godwit_devices::tap::{self, TapError};

use crate::spec::{HostFacts, HostFactsError, MachineSpec, NetSpec, SpecError};

/// A described machine; it fits this host, or did when it was described.
#[derive(Debug, Default)]
pub struct Definition {
    /// With names and defaults filled in; descriptors are in `taps`.
    config: VmConfig,
    /// The open queues of taps, by the name of their device.
    taps: BTreeMap<String, Vec<OwnedFd>>,
}

/// A machine could not be described so.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The host could not be looked at.
    #[error(transparent)]
    Facts(#[from] HostFactsError),
    /// The config is not one of a machine on this host.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Descriptors that came for a network device are not of a tap that fits.
    #[error(transparent)]
    Tap(#[from] TapError),
}

impl Definition {
    /// Describes the machine of `config`, to be booted here.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn new(config: VmConfig) -> Result<Self, DefinitionError> {
        Ok(Self::with_spec(config)?.0)
    }

    /// As [`new`](Self::new), with the machine to boot at once.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn with_spec(config: VmConfig) -> Result<(Self, MachineSpec), DefinitionError> {
        let mut definition = Self {
            config,
            taps: BTreeMap::new(),
        };
        let spec = definition.spec()?;
        spec.complete(&mut definition.config);
        Ok((definition, spec))
    }

    /// Takes over the description of a machine that comes from elsewhere, with
    /// the open taps that are to serve it here.
    #[must_use]
    pub fn incoming(config: VmConfig, taps: BTreeMap<String, Vec<OwnedFd>>) -> Self {
        Self { config, taps }
    }

    /// The same machine with one more network device.
    ///
    /// # Errors
    /// All that is wrong with it; the description stays as it was.
    pub fn add_net(
        &mut self,
        net: NetConfig,
        fds: Vec<OwnedFd>,
    ) -> Result<String, DefinitionError> {
        let mut config = self.config.clone();
        config.net.push(net);
        let id = name_last(&mut config);
        let mut candidate = Self {
            config,
            taps: BTreeMap::new(),
        };
        if !fds.is_empty() {
            candidate.taps.insert(id.clone(), fds);
        }
        let others = std::mem::take(&mut self.taps);
        candidate.taps.extend(others);
        let fitting = candidate.spec().and_then(|spec| {
            candidate.check_taps(&id)?;
            Ok(spec)
        });
        match fitting {
            Ok(spec) => {
                spec.complete(&mut candidate.config);
                *self = candidate;
                Ok(id)
            }
            Err(error) => {
                candidate.taps.remove(&id);
                self.taps = candidate.taps;
                Err(error)
            }
        }
    }

    /// As [`add_net`](Self::add_net), for a machine that is built: what it holds
    /// of the host is not free, so only the new device is looked at.
    ///
    /// # Errors
    /// All that is wrong with it; the description stays as it was.
    pub fn plug_net(
        &mut self,
        net: NetConfig,
        fds: Vec<OwnedFd>,
    ) -> Result<(String, NetSpec), DefinitionError> {
        let mut config = self.config.clone();
        config.net.push(net);
        let id = name_last(&mut config);
        let mut asked = config.clone();
        if let Some(last) = asked.net.last_mut()
            && !fds.is_empty()
        {
            last.fds = Some(fds.iter().map(AsRawFd::as_raw_fd).collect());
        }
        let spec = MachineSpec::net_to_plug(&asked, &HostFacts::read(&asked)?)?;
        if !fds.is_empty() {
            tap::interface_of(&fds)?;
        }
        if let Some(last) = config.net.last_mut() {
            last.mac = Some(spec.mac.to_string());
        }
        self.config = config;
        if !fds.is_empty() {
            self.taps.insert(id.clone(), fds);
        }
        Ok((id, spec))
    }

    /// Descriptors are looked at when they come: later, who sent them is gone.
    fn check_taps(&self, id: &str) -> Result<(), TapError> {
        match self.taps.get(id) {
            Some(fds) => tap::interface_of(fds).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Takes a device out; `false` when there is none of that name.
    pub fn remove(&mut self, id: &str) -> bool {
        let devices = self.config.net.len() + self.config.disks.len();
        self.config.net.retain(|net| net.id.as_deref() != Some(id));
        self.config
            .disks
            .retain(|disk| disk.id.as_deref() != Some(id));
        self.taps.remove(id);
        devices != self.config.net.len() + self.config.disks.len()
    }

    /// What is shown and sent: without the numbers of descriptors, which mean
    /// nothing elsewhere.
    #[must_use]
    pub fn config(&self) -> &VmConfig {
        &self.config
    }

    /// Notes where the serial port is.
    pub fn set_serial_place(&mut self, path: Option<std::path::PathBuf>) {
        if path.is_some() {
            self.config.serial.file = path;
        }
    }

    /// The machine to boot here.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn spec(&self) -> Result<MachineSpec, DefinitionError> {
        let config = self.with_descriptors();
        Ok(MachineSpec::from_config(
            &config,
            &HostFacts::read(&config)?,
        )?)
    }

    /// The machine to take over here.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn incoming_spec(&self) -> Result<MachineSpec, DefinitionError> {
        let config = self.with_descriptors();
        Ok(MachineSpec::from_incoming(
            &config,
            &HostFacts::read(&config)?,
        )?)
    }

    fn with_descriptors(&self) -> VmConfig {
        let mut config = self.config.clone();
        for net in &mut config.net {
            if let Some(fds) = net.id.as_ref().and_then(|id| self.taps.get(id)) {
                net.fds = Some(fds.iter().map(AsRawFd::as_raw_fd).collect());
            }
        }
        // Where the pseudo-terminal is, is told and not asked for.
        if config.serial.mode == godwit_api::config::CharacterMode::Pty {
            config.serial.file = None;
        }
        config
    }
}

/// Names the last network device, as the specification would.
fn name_last(config: &mut VmConfig) -> String {
    let taken: Vec<_> = config.net.iter().filter_map(|net| net.id.clone()).collect();
    let free = (0..)
        .map(|n| format!("_net{n}"))
        .find(|id| !taken.contains(id))
        .unwrap_or_default();
    match config.net.last_mut() {
        Some(last) => last.id.get_or_insert(free).clone(),
        None => free,
    }
}
