//! What is called otherwise at the destination.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use godwit_api::config::VmConfig;
use godwit_api::request::{NetFds, ReceiveMigration};

/// Where a machine that comes finds taps, sockets, nodes and CPUs here.
#[derive(Debug, Default)]
pub struct Places {
    request: Option<ReceiveMigration>,
    taps: BTreeMap<String, Vec<OwnedFd>>,
}

/// A place is given for what the machine does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: the machine that comes has no {what}; it has {has}")]
pub struct PlaceError {
    field: &'static str,
    what: String,
    has: String,
}

/// The open taps that came with a machine are not those of its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{came} open tap queues came with the machine, whose devices have {wanted} queue pairs")]
pub struct HandedError {
    came: usize,
    wanted: usize,
}

/// The network devices of `config` that a tap serves, in their order.
pub(super) fn served_by_taps(config: &VmConfig) -> impl Iterator<Item = &str> {
    let taps = config.net.iter().filter(|net| !net.vhost_user);
    taps.filter_map(|net| net.id.as_deref())
}

impl Places {
    /// The places of a request, and the taps that came with it.
    #[must_use]
    pub fn new(request: ReceiveMigration, fds: Vec<NetFds>) -> Self {
        Self {
            request: Some(request),
            taps: fds.into_iter().map(|net| (net.id, net.fds)).collect(),
        }
    }

    /// Only taps that came with the request.
    #[must_use]
    pub fn taps(fds: Vec<NetFds>) -> Self {
        Self {
            request: None,
            taps: fds.into_iter().map(|net| (net.id, net.fds)).collect(),
        }
    }

    /// Takes over the open taps of a machine whose memory is handed over on this
    /// host too: of each device that the request has no other place for. Answers
    /// what comes after them: the serial port's descriptors.
    ///
    /// # Errors
    /// They are fewer than the devices of `config` have queue pairs.
    pub fn add_handed(
        &mut self,
        config: &VmConfig,
        files: Vec<OwnedFd>,
    ) -> Result<Vec<OwnedFd>, HandedError> {
        let ids: Vec<_> = served_by_taps(config).map(str::to_owned).collect();
        let pairs = |id: &str| {
            let net = config.net.iter().find(|net| net.id.as_deref() == Some(id));
            net.map_or(0, |net| usize::try_from(net.num_queues / 2).unwrap_or(0))
        };
        let wanted: usize = ids.iter().map(|id| pairs(id)).sum();
        if files.len() < wanted {
            return Err(HandedError {
                came: files.len(),
                wanted,
            });
        }
        let mut files = files.into_iter();
        for id in ids {
            let queues: Vec<_> = files.by_ref().take(pairs(&id)).collect();
            let places = self.request.iter().flat_map(|request| &request.net);
            let elsewhere = places
                .filter(|place| place.id == id)
                .any(|place| place.tap.is_some());
            if !elsewhere {
                self.taps.entry(id).or_insert(queues);
            }
        }
        Ok(files.collect())
    }

    /// Writes them into the config of the machine that comes; what is left are
    /// the open taps of its devices.
    ///
    /// # Errors
    /// All places for what it does not have.
    pub fn apply(
        &mut self,
        config: &mut VmConfig,
    ) -> Result<BTreeMap<String, Vec<OwnedFd>>, Vec<PlaceError>> {
        let mut errors = Vec::new();
        let ids: Vec<_> = config.net.iter().filter_map(|net| net.id.clone()).collect();
        let unknown = |field, what| PlaceError {
            field,
            what,
            has: if ids.is_empty() {
                "none".to_owned()
            } else {
                ids.join(", ")
            },
        };
        for place in self.request.iter().flat_map(|request| &request.net) {
            let net = config
                .net
                .iter_mut()
                .find(|net| net.id.as_deref() == Some(place.id.as_str()));
            match net {
                Some(net) => {
                    net.tap = place.tap.clone().or(net.tap.take());
                    net.vhost_socket = place.vhost_socket.clone().or(net.vhost_socket.take());
                }
                None => errors.push(unknown("net", format!("network device {:?}", place.id))),
            }
        }
        for id in self.taps.keys() {
            let net = config
                .net
                .iter_mut()
                .find(|net| net.id.as_deref() == Some(id.as_str()));
            match net {
                Some(net) => net.tap = None,
                None => errors.push(unknown("net_fds", format!("network device {id:?}"))),
            }
        }
        if let Some(request) = &self.request {
            for zone in &mut config.memory.zones {
                let place = request
                    .host_numa_nodes
                    .iter()
                    .find(|place| zone.host_numa_node == Some(place.from));
                if let Some(place) = place {
                    zone.host_numa_node = Some(place.to);
                }
            }
            if let Some(cpus) = &request.cpus {
                if let Some(affinity) = &cpus.affinity {
                    config.cpus.affinity = affinity.clone();
                }
                if let Some(cpus) = &cpus.emulator_cpus {
                    config.platform.emulator_cpus = cpus.clone();
                }
                if let Some(cpus) = &cpus.migration_cpus {
                    config.platform.migration_cpus = cpus.clone();
                }
            }
        }
        if errors.is_empty() {
            Ok(std::mem::take(&mut self.taps))
        } else {
            Err(errors)
        }
    }
}
