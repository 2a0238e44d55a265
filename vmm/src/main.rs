//! The `godwit` command: arguments, logging, exit code.

use std::error::Error;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};
use godwit::control::{self, Ending, OnReset};
use godwit::spec::{HostFacts, MachineSpec};
use godwit::{signals, vcpu};
use tracing::level_filters::LevelFilter;

/// A minimal hypervisor for network functions.
///
/// Boots a guest from one JSON config on KVM: memory on huge pages, vCPU threads
/// pinned and undisturbed, vhost network devices.
#[derive(Debug, Parser)]
#[command(name = "godwit", version, about, long_about)]
struct Arguments {
    /// Where to log; standard error when absent.
    #[arg(long, value_name = "PATH", global = true)]
    log_file: Option<PathBuf>,

    /// Log more: -v for what the machine does, -vv for details, -vvv for all.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot the guest that a JSON config describes, and run it until it ends.
    ///
    /// Exit codes: 0 the guest switched itself off, or a signal or the escape
    /// key ended it; 1 it could not start or go on; 2 wrong arguments; 3 it
    /// reset and 4 it shut down by a triple fault, both with --no-reboot only.
    Run {
        /// The config; unknown fields are errors.
        config: PathBuf,
        /// End when the guest resets, instead of starting it again.
        #[arg(long)]
        no_reboot: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(ending) => ExitCode::from(match ending {
            Ending::PoweredOff | Ending::Terminated => 0,
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
    start_log(arguments)?;
    signals::block()?;
    vcpu::install_signal_handler()?;
    match &arguments.command {
        Command::Run { config, no_reboot } => {
            let config = godwit_api::config::read_file(config)?;
            let spec = MachineSpec::from_config(&config, &HostFacts::read()?)?;
            let on_reset = if *no_reboot {
                OnReset::End
            } else {
                OnReset::Restart
            };
            Ok(control::run(&spec, on_reset)?)
        }
    }
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
