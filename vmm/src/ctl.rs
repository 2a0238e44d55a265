//! `godwit ctl`: the client.
//!
//! ```text
//! words ─ body (by the types' schema) ─> JSON ─ api::client ─> godwit
//!   report <─ tables, or JSON as it came <─┘
//! ```
//!
//! It asks one question and ends with a code that says how it went, see
//! [`Failure::code`]; `migrate`, `events` and `top` stay and show what goes on.

mod answer;
mod body;
mod events;
mod failure;
mod interrupt;
mod metrics;
mod migrate;
mod schema;
mod table;
mod top;
mod verb;

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use godwit_api::client::{Answer, Client};

use crate::inherited;
pub use failure::Failure;
use verb::Verb;

/// Control a godwit that runs.
///
/// A body is given as JSON ('{"id": "n0"}'), from a file (@FILE) or standard
/// input (-), and as words KEY=VALUE: nested keys have dots between them
/// (memory.size=4G, net.0.tap=tap0), sizes may end in K, M, G or T (powers of
/// 1024), lists have commas (worker_cpus=2,3). Words are laid over the JSON.
///
/// Exit codes: 0 done; 1 refused or failed; 2 wrong arguments, or a body that is
/// wrong; 3 nobody answers at the socket; 4 the machine or the device is not
/// there; 5 a device of that name exists; 6 the answer did not come, so it is
/// not known whether the request was carried out; 7 the migration was cancelled.
#[derive(Debug, Args)]
pub struct Ctl {
    /// Print JSON: answers as they came, errors as {"status", "error": [...]}.
    #[arg(long, global = true)]
    json: bool,

    /// Wait no longer than this for an answer; as long as it takes when absent.
    #[arg(long, value_name = "SECONDS", global = true)]
    timeout: Option<f64>,

    #[command(subcommand)]
    verb: Verb,
}

/// How answers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

/// Does what the words say, and reports.
pub fn main(ctl: &Ctl, socket: Option<&Path>) -> ExitCode {
    let form = if ctl.json { Form::Json } else { Form::Text };
    match run(ctl, socket, form) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            // There is nowhere left to say that this failed.
            let _ = failure.report(form, &mut io::stderr());
            ExitCode::from(failure.code())
        }
    }
}

fn run(ctl: &Ctl, socket: Option<&Path>, form: Form) -> Result<(), Failure> {
    if let Verb::Events(events) = &ctl.verb {
        return events::follow(events, form);
    }
    // First: nothing of ours must take the number of one that was inherited.
    let fds = take(ctl.verb.fds())?;
    let socket = socket.ok_or_else(|| {
        Failure::usage("name the socket of the godwit to control: --api-socket PATH")
    })?;
    let mut client = Client::new(socket);
    client.set_time_limit(limit(ctl.timeout)?);
    match &ctl.verb {
        Verb::Top(top) => top::run(top, &mut client, form),
        Verb::Migrate(migrate) => migrate::run(migrate, &mut client, form),
        verb => ask(verb, &fds, &mut client, form),
    }
}

fn ask(verb: &Verb, fds: &[OwnedFd], client: &mut Client, form: Form) -> Result<(), Failure> {
    let call = verb.call()?;
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let answer = client.call(call.route.method, call.route.path, &call.body, &fds)?;
    print(&show(verb, &answer, form)?)
}

fn show(verb: &Verb, answer: &Answer, form: Form) -> Result<String, Failure> {
    match form {
        Form::Json => answer::as_json(verb, answer),
        Form::Text => answer::as_text(verb, answer),
    }
}

fn take(fds: &[RawFd]) -> Result<Vec<OwnedFd>, Failure> {
    for (at, &fd) in fds.iter().enumerate() {
        if fd < 3 {
            return Err(Failure::usage(format!(
                "--fd {fd}: 0 to 2 are the standard streams; pass numbers from 3 on"
            )));
        }
        if fds.iter().take(at).any(|&other| other == fd) {
            return Err(Failure::usage(format!("--fd {fd} is given twice")));
        }
    }
    let taken = fds.iter().map(|&fd| inherited::take(fd));
    taken
        .collect::<io::Result<_>>()
        .map_err(|error| Failure::usage(error.to_string()))
}

fn limit(seconds: Option<f64>) -> Result<Option<Duration>, Failure> {
    let Some(seconds) = seconds else {
        return Ok(None);
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(limit) if !limit.is_zero() => Ok(Some(limit)),
        _ => Err(Failure::usage(format!(
            "--timeout {seconds}: it is no time to wait; give seconds, more than 0"
        ))),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}
