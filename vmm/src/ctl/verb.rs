//! The verbs: what each asks for, and of which route.

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use godwit_api::config::{NetConfig, VmConfig};
use godwit_api::json::{self, ReadError};
use godwit_api::request::{ReceiveMigration, RemoveDevice, Restore, SendMigration, Snapshot};
use godwit_api::router::{ROUTES, Route};
use serde::de::DeserializeOwned;

use super::Failure;
use super::body::{self, Bare};
use super::events::Events;
use super::migrate::Migrate;
use super::top::Top;

/// What can be asked. Names are those of the peer's client where it has them.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Who is there?
    Ping,
    /// Show the machine: its state, description and devices.
    Info,
    /// Describe a machine; nothing is built yet.
    ///
    /// The config comes from a file, from standard input (-, or no word at
    /// all), or in words: create payload.kernel=vmlinux memory.size=4G.
    Create(Words),
    /// Build the machine and start its vCPUs.
    Boot,
    /// Power the machine off; its description stays.
    Shutdown,
    /// Power the machine off and on.
    Reboot,
    /// Power the machine off and forget its description.
    Delete,
    /// Stop the vCPUs.
    Pause,
    /// Let the vCPUs go on.
    Resume,
    /// Ask the guest to power itself off (ACPI).
    PowerButton,
    /// Show what the machine's devices counted.
    Counters,
    /// Add a network device: add-net tap=tap0 num_queues=4, or with open taps
    /// --fd 5 --fd 6, one for each queue pair.
    AddNet(WordsAndFds),
    /// Take a device away: remove-device ID.
    RemoveDevice(Words),
    /// Write the paused machine to a folder: snapshot FOLDER.
    Snapshot(Words),
    /// Make a machine from such a folder: restore FOLDER [resume=true].
    Restore(WordsAndFds),
    /// Delete the machine and end the process.
    ShutdownVmm,
    /// Move the guest to another godwit, and show how it goes: migrate URL.
    ///
    /// URL is tcp:HOST:PORT or unix:PATH, where the other one receives. Ctrl-C
    /// cancels; the guest stays then.
    #[command(visible_alias = "send-migration")]
    Migrate(Migrate),
    /// Take a guest that comes from another godwit, and wait until it is here:
    /// receive URL.
    #[command(visible_alias = "receive-migration")]
    Receive(WordsAndFds),
    /// Show how far the migration is, or how the last one ended.
    #[command(visible_alias = "migration-progress")]
    Progress,
    /// Keep the guest at the source of the migration.
    #[command(visible_alias = "cancel-migration")]
    Cancel,
    /// Print all figures, as Prometheus reads them.
    Metrics,
    /// Print the OpenAPI document of the interface.
    Openapi,
    /// Follow what `godwit --event-monitor path=PATH` tells; needs no socket.
    Events(Events),
    /// Watch vCPU exits, CPU time, packets and memory; q ends it.
    Top(Top),
}

/// A body in words.
#[derive(Debug, Args)]
pub(super) struct Words {
    /// JSON, @FILE, - for standard input, or KEY=VALUE; see `godwit ctl --help`.
    #[arg(value_name = "JSON|KEY=VALUE")]
    pub(super) words: Vec<String>,
}

/// A body in words, and descriptors beside it.
#[derive(Debug, Args)]
pub(super) struct WordsAndFds {
    #[command(flatten)]
    words: Words,
    /// Pass on this open descriptor of a tap's queue; may be given again.
    #[arg(long, value_name = "NUMBER")]
    fd: Vec<RawFd>,
}

/// One request, ready to be sent.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) route: &'static Route,
    pub(super) body: Vec<u8>,
}

impl Verb {
    /// The descriptors that go along.
    pub(super) fn fds(&self) -> &[RawFd] {
        match self {
            Self::AddNet(with) | Self::Restore(with) | Self::Receive(with) => &with.fd,
            _ => &[],
        }
    }

    /// The route's name in the table.
    pub(super) fn route(&self) -> &'static str {
        match self {
            Self::Ping => "vmm.ping",
            Self::Info => "vm.info",
            Self::Create(_) => "vm.create",
            Self::Boot => "vm.boot",
            Self::Shutdown => "vm.shutdown",
            Self::Reboot => "vm.reboot",
            Self::Delete => "vm.delete",
            Self::Pause => "vm.pause",
            Self::Resume => "vm.resume",
            Self::PowerButton => "vm.power-button",
            Self::Counters | Self::Top(_) => "vm.counters",
            Self::AddNet(_) => "vm.add-net",
            Self::RemoveDevice(_) => "vm.remove-device",
            Self::Snapshot(_) => "vm.snapshot",
            Self::Restore(_) => "vm.restore",
            Self::ShutdownVmm => "vmm.shutdown",
            Self::Migrate(_) => "vm.send-migration",
            Self::Receive(_) => "vm.receive-migration",
            Self::Progress => "vm.migration-progress",
            Self::Cancel => "vm.cancel-migration",
            Self::Metrics | Self::Events(_) => "metrics",
            Self::Openapi => "openapi.json",
        }
    }

    /// The request.
    pub(super) fn call(&self) -> Result<Call, Failure> {
        let route = route(self.route())?;
        let body = match self {
            Self::Create(words) if words.words.is_empty() => {
                made::<VmConfig>(route, &["-".to_owned()], Bare::File)?
            }
            Self::Create(words) => made::<VmConfig>(route, &words.words, Bare::File)?,
            Self::AddNet(with) => made::<NetConfig>(route, &with.words.words, Bare::None)?,
            Self::RemoveDevice(words) => {
                made::<RemoveDevice>(route, &words.words, Bare::Text("id"))?
            }
            Self::Snapshot(words) => {
                made::<Snapshot>(route, &words.words, Bare::Folder("destination_url"))?
            }
            Self::Restore(with) => {
                made::<Restore>(route, &with.words.words, Bare::Folder("source_url"))?
            }
            Self::Receive(with) => {
                made::<ReceiveMigration>(route, &with.words.words, Bare::Text("receiver_url"))?
            }
            Self::Migrate(migrate) => {
                made::<SendMigration>(route, &migrate.words.words, Bare::Text("destination_url"))?
            }
            _ => Vec::new(),
        };
        Ok(Call { route, body })
    }
}

fn route(name: &str) -> Result<&'static Route, Failure> {
    let mut routes = ROUTES.iter();
    routes
        .find(|route| route.name() == name)
        .ok_or_else(|| Failure::usage(format!("this build has no route {name}")))
}

/// The body, checked as a config file is: what is unknown is a mistake.
fn made<T: DeserializeOwned>(
    route: &'static Route,
    words: &[String],
    bare: Bare,
) -> Result<Vec<u8>, Failure> {
    let body = body::from_words(route, words, bare)?;
    let checked: Result<T, ReadError> = json::read_strict(&body);
    checked.map_err(|source| Failure::Body {
        route: route.name(),
        source,
    })?;
    Ok(body)
}

/// A folder as a URL; a relative one is here.
pub(super) fn folder_url(word: &str) -> Result<String, Failure> {
    if word.contains("://") {
        return Ok(word.to_owned());
    }
    let path = std::path::absolute(word).map_err(|source| Failure::Read {
        path: PathBuf::from(word),
        source,
    })?;
    Ok(format!("file://{}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Verb> {
        use clap::Parser;

        #[derive(Debug, Parser)]
        struct Line {
            #[command(subcommand)]
            verb: Verb,
        }
        let command = <Line as clap::CommandFactory>::command();
        let names: Vec<_> = command.get_subcommands().map(|c| c.get_name()).collect();
        names
            .into_iter()
            .map(|name| {
                let words = ["ctl", name, "x"];
                Line::try_parse_from(words)
                    .or_else(|_| Line::try_parse_from(&words[..2]))
                    .unwrap()
                    .verb
            })
            .collect()
    }

    #[test]
    fn every_route_has_a_verb_and_every_verb_a_route() {
        let verbs = all();
        for verb in &verbs {
            route(verb.route()).unwrap();
        }
        for route in ROUTES {
            assert!(
                verbs.iter().any(|verb| verb.route() == route.name()),
                "no verb asks {}",
                route.name()
            );
        }
    }

    #[test]
    fn folders_become_urls() {
        assert_eq!(folder_url("/var/x").unwrap(), "file:///var/x");
        assert_eq!(folder_url("file:///x").unwrap(), "file:///x");
        assert!(folder_url("x").unwrap().starts_with("file:///"));
    }
}
