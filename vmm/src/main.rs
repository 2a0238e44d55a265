//! The `godwit` command: arguments, logging, exit code.

mod checkup;
mod ctl;
mod inherited;
mod lateness;
mod manual;

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use checkup::{Checkup, CheckupError};
use clap::{ArgAction, CommandFactory, Parser, Subcommand};
use godwit::control::{Control, Door, Ending, OnPowerOff, OnReset, Options};
use godwit::seccomp::{self, Filter};
use godwit::{signals, vcpu};
use godwit_api::events::{EventMonitor, EventMonitorError};
use godwit_api::server::{ApiSocket, ServerHandle, ServerSetup};
use godwit_devices::dirty;
use tracing::level_filters::LevelFilter;

/// A minimal hypervisor for network functions.
///
/// Boots a guest from one JSON config on KVM: memory on huge pages, vCPU threads
/// pinned and undisturbed, vhost network devices. A REST API on a Unix socket
/// controls it.
///
/// Exit codes: 0 the guest switched itself off or runs elsewhere, or a signal,
/// a client or the escape key ended it; 1 it could not start or go on; 2 wrong
/// arguments; 3 the guest reset and 4 it shut down by a triple fault, both with
/// --no-reboot only.
#[derive(Debug, Parser)]
#[command(
    name = "godwit",
    version,
    about,
    long_about,
    arg_required_else_help = true
)]
struct Arguments {
    /// Where clients reach the REST API: a path, `path=PATH`, or `fd=N` for a
    /// socket that is open already. Without a command, godwit waits there to be
    /// told what to do.
    #[arg(long, value_name = "path=PATH|fd=N", global = true)]
    api_socket: Option<Place>,

    /// Where to tell what happens to the guest, one JSON object for each event:
    /// a file, a FIFO, or `fd=N` for a descriptor that is open already.
    #[arg(long, value_name = "path=PATH|fd=N", global = true)]
    event_monitor: Option<Place>,

    /// Where to log; standard error when absent.
    #[arg(long, value_name = "PATH", global = true)]
    log_file: Option<PathBuf>,

    /// Log more: -v for what the machine does, -vv for details, -vvv for all.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,

    /// End when the guest resets, instead of starting it again.
    #[arg(long, global = true)]
    no_reboot: bool,

    /// Stay when the guest switches itself off, to be booted again by request.
    #[arg(long, global = true)]
    no_shutdown: bool,

    /// Whether a filter holds this process to the system calls it needs: true, false, or log,
    /// which lets all pass and has the kernel log those that are not expected.
    #[arg(
        long,
        value_name = "true|false|log",
        global = true,
        default_value = "false"
    )]
    seccomp: Filter,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot the guest that a JSON config describes, and run it until it ends.
    Run {
        /// The config; unknown fields are errors.
        config: PathBuf,
    },

    Check(checkup::Checkup),

    Ctl(ctl::Ctl),

    Latency(lateness::Lateness),

    /// Print completions for a shell, to be put where it looks for them.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },

    /// Print the manual page, or write all pages to a folder.
    Man {
        /// Where to write godwit.1, godwit-run.1, godwit-ctl.1 and so on.
        folder: Option<PathBuf>,
    },
}

/// A path, or a descriptor that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Path(PathBuf),
    Fd(RawFd),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(number) = text.strip_prefix("fd=") {
            return match number.parse() {
                Ok(fd @ 3..) => Ok(Self::Fd(fd)),
                _ => Err(format!("{number:?} is no descriptor: a number from 3 on")),
            };
        }
        match text.strip_prefix("path=").unwrap_or(text) {
            "" => Err("the path is empty".to_owned()),
            path => Ok(Self::Path(path.into())),
        }
    }
}

fn main() -> ExitCode {
    let start = Instant::now();
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::Check(checkup)) => return check(checkup, arguments.verbose),
        Some(Command::Latency(lateness)) => return latency(lateness, &arguments),
        Some(Command::Ctl(ctl)) => return control(ctl, arguments.api_socket.as_ref()),
        Some(Command::Completion { shell }) => {
            return printed(manual::completion(Arguments::command(), *shell));
        }
        Some(Command::Man { folder }) => {
            return printed(manual::pages(Arguments::command(), folder.as_deref()));
        }
        Some(Command::Run { .. }) | None => (),
    }
    match run(&arguments, start) {
        Ok(ending) => ExitCode::from(match ending {
            Ending::PoweredOff | Ending::Terminated | Ending::Migrated => 0,
            Ending::Reset => 3,
            Ending::TripleFault => 4,
        }),
        Err(error) => {
            report(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn check(arguments: &Checkup, verbose: u8) -> ExitCode {
    match checkup::main(arguments, verbose) {
        Ok(code) => code,
        // Whoever read it has seen enough.
        Err(CheckupError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            report(&error);
            match error {
                CheckupError::Usage(..) => ExitCode::from(2),
                CheckupError::Failed(_) | CheckupError::Output(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn latency(lateness: &lateness::Lateness, arguments: &Arguments) -> ExitCode {
    if let Err(error) = start_log(arguments) {
        report(error.as_ref());
        return ExitCode::FAILURE;
    }
    match lateness::main(lateness) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.code();
            if code != 0 {
                report(&error);
            }
            ExitCode::from(code)
        }
    }
}

/// The client needs a path: a descriptor that listens leads nowhere.
fn control(ctl: &ctl::Ctl, place: Option<&Place>) -> ExitCode {
    match place {
        Some(Place::Fd(fd)) => {
            eprintln!("godwit: --api-socket fd={fd}: ctl connects to a path");
            ExitCode::from(2)
        }
        Some(Place::Path(path)) => ctl::main(ctl, Some(path)),
        None => ctl::main(ctl, None),
    }
}

fn printed(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, start: Instant) -> Result<Ending, Box<dyn Error>> {
    // First: a descriptor of the log must not take an inherited one's number.
    let socket = arguments.api_socket.as_ref().map(open).transpose()?;
    let events = arguments.event_monitor.as_ref().map(taken).transpose()?;
    start_log(arguments)?;
    seccomp::set(arguments.seccomp)?;
    signals::block()?;
    vcpu::install_signal_handler()?;
    dirty::prepare();
    let first = match &arguments.command {
        Some(Command::Run { config }) => Some(godwit_api::config::read_file(config)?),
        _ if arguments.api_socket.is_none() => {
            return Err(
                "Nothing to do: name a config (godwit run CONFIG.json) or --api-socket".into(),
            );
        }
        _ => None,
    };
    let mut control = Control::new(options(arguments))?;
    // Dropped late: what was told last goes out.
    let monitor = events.map(|events| monitor(events, start)).transpose()?;
    if let Some(monitor) = &monitor {
        control = control.with_monitor(monitor.sender());
    }
    signals::relay(control.events())?;
    // Dropped last: the socket goes when the guest is gone.
    let _server = match socket {
        Some(socket) => {
            let door = Arc::new(Door::new(control.events()));
            Some(ServerHandle::start(ServerSetup::new(socket, door))?)
        }
        None => None,
    };
    Ok(control.run(first)?)
}

fn options(arguments: &Arguments) -> Options {
    Options {
        on_reset: if arguments.no_reboot {
            OnReset::End
        } else {
            OnReset::Restart
        },
        on_power_off: if arguments.no_shutdown {
            OnPowerOff::Stay
        } else {
            OnPowerOff::End
        },
    }
}

/// Where events go, with a descriptor taken over.
enum Destination {
    Path(PathBuf),
    Fd(OwnedFd),
}

fn taken(place: &Place) -> io::Result<Destination> {
    Ok(match place {
        Place::Path(path) => Destination::Path(path.clone()),
        Place::Fd(fd) => Destination::Fd(inherited::take(*fd)?),
    })
}

fn monitor(destination: Destination, start: Instant) -> Result<EventMonitor, EventMonitorError> {
    match destination {
        Destination::Path(path) => EventMonitor::to_path(&path, start, || ()),
        Destination::Fd(fd) => EventMonitor::to_fd(fd, start, || ()),
    }
}

fn open(place: &Place) -> Result<ApiSocket, Box<dyn Error>> {
    Ok(match place {
        Place::Path(path) => ApiSocket::bind(path)?,
        Place::Fd(fd) => ApiSocket::from_fd(inherited::take(*fd)?)?,
    })
}

fn start_log(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let level = match arguments.verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false);
    match &arguments.log_file {
        None => log.with_writer(io::stderr).init(),
        Some(path) => {
            let file = File::create(path)
                .map_err(|e| format!("Could not open the log file {}: {e}", path.display()))?;
            log.with_ansi(false).with_writer(file).init();
        }
    }
    Ok(())
}

/// Prints an error and the chain of its reasons, outermost first.
fn report(error: &dyn Error) {
    eprintln!("godwit: {error}");
    let mut source = error.source();
    while let Some(reason) = source {
        eprintln!("  because: {reason}");
        source = reason.source();
    }
}
