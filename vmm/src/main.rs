//! The `godwit` command: arguments, logging, exit code.

mod inherited;

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use clap::{ArgAction, Parser, Subcommand};
use godwit::control::{Control, Door, Ending, OnPowerOff, OnReset, Options};
use godwit::{signals, vcpu};
use godwit_api::server::{ApiSocket, ServerHandle, ServerSetup};
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
    api_socket: Option<ApiPlace>,

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
}

/// Where clients come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ApiPlace {
    Path(PathBuf),
    Fd(RawFd),
}

impl FromStr for ApiPlace {
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
    let arguments = Arguments::parse();
    match run(&arguments) {
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

fn run(arguments: &Arguments) -> Result<Ending, Box<dyn Error>> {
    // First: a descriptor of the log must not take an inherited one's number.
    let socket = arguments.api_socket.as_ref().map(open).transpose()?;
    start_log(arguments)?;
    signals::block()?;
    vcpu::install_signal_handler()?;
    let first = match &arguments.command {
        Some(Command::Run { config }) => Some(godwit_api::config::read_file(config)?),
        None if arguments.api_socket.is_none() => {
            return Err(
                "Nothing to do: name a config (godwit run CONFIG.json) or --api-socket".into(),
            );
        }
        None => None,
    };
    let control = Control::new(options(arguments))?;
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

fn open(place: &ApiPlace) -> Result<ApiSocket, Box<dyn Error>> {
    Ok(match place {
        ApiPlace::Path(path) => ApiSocket::bind(path)?,
        ApiPlace::Fd(fd) => ApiSocket::from_fd(inherited::take(*fd)?)?,
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
