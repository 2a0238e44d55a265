//! A body and its descriptors to a request.

use std::os::fd::OwnedFd;

use serde::de::DeserializeOwned;

use crate::config::{NetConfig, VmConfig};
use crate::error::{ApiError, ErrorKind};
use crate::json::{self, FieldProblem};
use crate::request::{
    NetFds, NetFdsConfig, ReceiveMigration, RemoveDevice, Request, Restore, SendMigration, Snapshot,
};

/// What came beside method and path.
#[derive(Debug)]
pub struct Body<'a> {
    bytes: &'a [u8],
    fds: Vec<OwnedFd>,
    ignored: Vec<FieldProblem>,
}

impl<'a> Body<'a> {
    pub(super) const fn new(bytes: &'a [u8], fds: Vec<OwnedFd>) -> Self {
        Self {
            bytes,
            fds,
            ignored: Vec::new(),
        }
    }

    pub(super) fn into_ignored(self) -> Vec<FieldProblem> {
        self.ignored
    }

    /// Neither a body nor descriptors.
    pub(super) fn nothing(&self) -> Result<(), ApiError> {
        if !self.bytes.is_empty() {
            return Err(bad(format!(
                "this route takes no body, and {} bytes came",
                self.bytes.len()
            )));
        }
        self.no_fds()
    }

    fn no_fds(&self) -> Result<(), ApiError> {
        match self.fds.len() {
            0 => Ok(()),
            count => Err(bad(format!(
                "this route takes no file descriptors, and {count} came"
            ))),
        }
    }

    fn read<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        if self.bytes.is_empty() {
            return Err(bad("the body is missing: this route takes a JSON object"));
        }
        let read = json::read_lenient(self.bytes).map_err(|error| {
            ApiError::of(ErrorKind::BadRequest, &error).during("the body is not usable")
        })?;
        self.ignored = read.ignored;
        Ok(read.value)
    }

    /// Hands the descriptors to the devices, in order.
    fn hand_out(&mut self, devices: &[NetFdsConfig]) -> Result<Vec<NetFds>, ApiError> {
        let asked: u64 = devices.iter().map(|net| u64::from(wanted(net))).sum();
        if asked != self.fds.len() as u64 {
            return Err(bad(format!(
                "net_fds asks for {asked} file descriptors, and {} came",
                self.fds.len()
            )));
        }
        let mut fds = self.fds.drain(..);
        Ok(devices
            .iter()
            .map(|net| NetFds {
                id: net.id.clone(),
                fds: fds.by_ref().take(wanted(net) as usize).collect(),
            })
            .collect())
    }
}

/// The peer once told the number by the length of a list.
fn wanted(net: &NetFdsConfig) -> u32 {
    let listed = net.fds.as_ref().map_or(0, Vec::len);
    net.num_fds
        .unwrap_or_else(|| u32::try_from(listed).unwrap_or(u32::MAX))
}

fn bad(reason: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::BadRequest, reason)
}

pub(super) fn create(body: &mut Body<'_>) -> Result<Request, ApiError> {
    body.no_fds()?;
    Ok(Request::Create(Box::<VmConfig>::new(body.read()?)))
}

pub(super) fn add_net(body: &mut Body<'_>) -> Result<Request, ApiError> {
    let mut net: NetConfig = body.read()?;
    let fds = std::mem::take(&mut body.fds);
    // Numbers of descriptors in the client mean nothing here.
    net.fds = None;
    if !fds.is_empty() && 2 * fds.len() as u64 != u64::from(net.num_queues) {
        return Err(bad(format!(
            "{} file descriptors came for num_queues {}: one is needed for each queue pair, \
             and num_queues is twice the pairs",
            fds.len(),
            net.num_queues
        )));
    }
    Ok(Request::AddNet(Box::new(net), fds))
}

pub(super) fn remove_device(body: &mut Body<'_>) -> Result<Request, ApiError> {
    body.no_fds()?;
    Ok(Request::RemoveDevice(body.read::<RemoveDevice>()?))
}

pub(super) fn send_migration(body: &mut Body<'_>) -> Result<Request, ApiError> {
    body.no_fds()?;
    let send: SendMigration = body.read()?;
    send.check()?;
    Ok(Request::SendMigration(Box::new(send)))
}

pub(super) fn receive_migration(body: &mut Body<'_>) -> Result<Request, ApiError> {
    let receive: ReceiveMigration = body.read()?;
    receive.check()?;
    let fds = body.hand_out(&receive.net_fds)?;
    Ok(Request::ReceiveMigration(Box::new(receive), fds))
}

pub(super) fn snapshot(body: &mut Body<'_>) -> Result<Request, ApiError> {
    body.no_fds()?;
    Ok(Request::Snapshot(body.read::<Snapshot>()?))
}

pub(super) fn restore(body: &mut Body<'_>) -> Result<Request, ApiError> {
    let restore: Restore = body.read()?;
    let fds = body.hand_out(&restore.net_fds)?;
    Ok(Request::Restore(restore, fds))
}
