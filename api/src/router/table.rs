//! All routes.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::body::{self, Body};
use crate::config::{NetConfig, VmConfig};
use crate::error::ApiError;
use crate::request::{ReceiveMigration, RemoveDevice, Request, Restore, SendMigration, Snapshot};
use crate::response::{Counters, DeviceAdded, Info, Ping, Progress};

/// One route.
#[derive(Debug)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// What it takes.
    pub input: Input,
    /// What it answers.
    pub output: Output,
}

/// A method of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// To look.
    Get,
    /// To do.
    Put,
}

impl Method {
    /// The method as it is on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
        }
    }
}

/// Writes down what a type looks like in JSON.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What a route takes.
#[derive(Debug)]
pub enum Input {
    /// Nothing.
    None(fn() -> Request),
    /// A JSON object, and file descriptors where the type says so.
    Json {
        /// What it looks like.
        schema: SchemaOf,
        /// How it is read.
        read: fn(&mut Body<'_>) -> Result<Request, ApiError>,
    },
    /// Nothing, and the interface answers it itself.
    Own,
}

/// What a route answers when it is granted.
#[derive(Clone, Copy, Debug)]
pub enum Output {
    /// 204.
    NoContent,
    /// 200 with an empty body.
    Empty,
    /// 200 with JSON.
    Json(SchemaOf),
    /// 204 before boot, 200 with JSON after.
    NoContentOrJson(SchemaOf),
    /// 200 with any JSON object.
    Document,
    /// 200 with text for Prometheus.
    Metrics,
}

const fn look(
    path: &'static str,
    summary: &'static str,
    make: fn() -> Request,
    output: Output,
) -> Route {
    Route {
        method: Method::Get,
        path,
        summary,
        input: Input::None(make),
        output,
    }
}

const fn act(path: &'static str, summary: &'static str, make: fn() -> Request) -> Route {
    Route {
        method: Method::Put,
        path,
        summary,
        input: Input::None(make),
        output: Output::NoContent,
    }
}

const fn take<T: JsonSchema>(
    path: &'static str,
    summary: &'static str,
    read: fn(&mut Body<'_>) -> Result<Request, ApiError>,
) -> Route {
    Route {
        method: Method::Put,
        path,
        summary,
        input: Input::Json {
            schema: schema::<T>,
            read,
        },
        output: Output::NoContent,
    }
}

impl Route {
    const fn answering(self, output: Output) -> Self {
        Self { output, ..self }
    }

    /// What the route does, as `vm.boot`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path
            .strip_prefix(super::PREFIX)
            .unwrap_or(self.path)
            .trim_start_matches('/')
    }
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// All routes, in the order of the documentation.
pub static ROUTES: &[Route] = &[
    look(
        "/api/v1/vmm.ping",
        "Who is there?",
        || Request::Ping,
        Output::Json(schema::<Ping>),
    ),
    act(
        "/api/v1/vmm.shutdown",
        "Delete the machine and end the process",
        || Request::ShutdownVmm,
    )
    .answering(Output::Empty),
    take::<VmConfig>("/api/v1/vm.create", "Describe a machine", body::create),
    act(
        "/api/v1/vm.boot",
        "Build the machine and start its vCPUs",
        || Request::Boot,
    ),
    act(
        "/api/v1/vm.shutdown",
        "Power the machine off; its description stays",
        || Request::Shutdown,
    ),
    act("/api/v1/vm.reboot", "Power the machine off and on", || {
        Request::Reboot
    }),
    act(
        "/api/v1/vm.delete",
        "Power the machine off and forget its description",
        || Request::Delete,
    ),
    act("/api/v1/vm.pause", "Stop the vCPUs", || Request::Pause),
    act("/api/v1/vm.resume", "Let the vCPUs go on", || {
        Request::Resume
    }),
    act(
        "/api/v1/vm.power-button",
        "Ask the guest to power itself off",
        || Request::PowerButton,
    ),
    look(
        "/api/v1/vm.info",
        "The machine's description and state",
        || Request::Info,
        Output::Json(schema::<Info>),
    ),
    look(
        "/api/v1/vm.counters",
        "What the machine's devices counted",
        || Request::Counters,
        Output::Json(schema::<Counters>),
    ),
    take::<NetConfig>(
        "/api/v1/vm.add-net",
        "Add a network device; a tap's queues may come as file descriptors (SCM_RIGHTS), \
         one for each queue pair",
        body::add_net,
    )
    .answering(Output::NoContentOrJson(schema::<DeviceAdded>)),
    take::<RemoveDevice>(
        "/api/v1/vm.remove-device",
        "Take a device away",
        body::remove_device,
    ),
    take::<SendMigration>(
        "/api/v1/vm.send-migration",
        "Move the guest to another process; answers once that has started",
        body::send_migration,
    ),
    take::<ReceiveMigration>(
        "/api/v1/vm.receive-migration",
        "Take a guest from another process; answers when it is here. Taps' queues may come as \
         file descriptors (SCM_RIGHTS), as net_fds says",
        body::receive_migration,
    ),
    look(
        "/api/v1/vm.migration-progress",
        "How far the migration is, or how the last one ended",
        || Request::MigrationProgress,
        Output::Json(schema::<Progress>),
    ),
    act(
        "/api/v1/vm.cancel-migration",
        "Keep the guest at the source",
        || Request::CancelMigration,
    ),
    take::<Snapshot>(
        "/api/v1/vm.snapshot",
        "Write the paused machine to a folder",
        body::snapshot,
    ),
    take::<Restore>(
        "/api/v1/vm.restore",
        "Make a machine from such a folder. Taps' queues may come as file descriptors \
         (SCM_RIGHTS), as net_fds says",
        body::restore,
    ),
    look(
        "/metrics",
        "All figures, as text for Prometheus",
        || Request::Metrics,
        Output::Metrics,
    ),
    Route {
        method: Method::Get,
        path: "/openapi.json",
        summary: "This document",
        input: Input::Own,
        output: Output::Document,
    },
];
