//! `cargo lab`.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use godwit_lab::bench::{self, Bench};
use godwit_lab::demo::{self, Demo};
use godwit_lab::doctor::Report;
use godwit_lab::image::{Image, Variant};
use godwit_lab::outer::protocol::Stream;
use godwit_lab::outer::{Outer, Shape, agent, exec};
use godwit_lab::payload;
use godwit_lab::shell;
use godwit_lab::suite::{self, Selection};

#[derive(Debug, Parser)]
#[command(
    name = "cargo lab",
    about = "Demo, tests, guest images and benchmarks of godwit, on any machine"
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build the payload guest of resources/payload
    Payload,
    /// Build the guest image: kernel, and initramfs archives with dpdk-testpmd
    Image {
        /// The image of a PREEMPT_RT guest: its kernel, and cyclictest; in target/lab/image-rt
        #[arg(long)]
        rt: bool,
    },
    /// Say what this machine is, what is missing and what runs where
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Run all tests, each where it can run
    Test(Selection),
    /// Boot a DPDK guest, pass numbered frames through it, and show what came back
    Demo(Demo),
    /// Boot a config with its serial port on this terminal; Ctrl-A x leaves it
    Shell {
        /// The config, such as resources/configs/dpdk-l2fwd.json
        config: PathBuf,
    },
    /// Run a command in a fresh outer machine, and show its output
    Outer {
        /// Seconds after which the command is killed
        #[arg(long, default_value_t = 600)]
        limit: u64,
        /// The command, for `sh -c`
        script: String,
    },
    /// Serve the lab from within the outer machine; its init starts this
    #[command(hide = true)]
    Agent,
    /// Measure godwit beside other VMMs
    #[command(subcommand)]
    Bench(Bench),
}

fn main() -> ExitCode {
    let result: Result<(), Box<dyn Error>> = match Arguments::parse().verb {
        Verb::Payload => payload::build()
            .map(|images| images.print())
            .map_err(Into::into),
        Verb::Image { rt } => Image::build_variant(if rt { Variant::Rt } else { Variant::Stock })
            .map(|image| println!("{}", image.folder().display()))
            .map_err(Into::into),
        Verb::Test(selection) => match suite::run(&selection) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error.into()),
        },
        Verb::Demo(demo) => demo::run(&demo).map_err(Into::into),
        Verb::Shell { config } => shell::run(&config).map_err(Into::into),
        Verb::Outer { limit, script } => return in_outer(&script, Duration::from_secs(limit)),
        Verb::Agent => agent::serve().map_err(Into::into),
        Verb::Doctor { json } => doctor(json),
        Verb::Bench(what) => bench::run(&what).map_err(Into::into),
    };
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    report(&*error)
}

/// Prints an error with its causes.
fn report(error: &dyn Error) -> ExitCode {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
    ExitCode::FAILURE
}

fn doctor(json: bool) -> Result<(), Box<dyn Error>> {
    let report = Report::gather();
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

fn in_outer(script: &str, limit: Duration) -> ExitCode {
    let outer = match Outer::start(Shape::default()) {
        Ok(outer) => outer,
        Err(error) => return report(&error),
    };
    let arguments = ["sh", "-c", script].map(str::to_owned).to_vec();
    let show = |stream: Stream, data: &[u8]| {
        let _ = match stream {
            Stream::Out => io::stdout().lock().write_all(data),
            Stream::Err => io::stderr().lock().write_all(data),
        };
    };
    match outer.client().run(exec(arguments, limit), show) {
        Ok(output) if output.ending.success() => ExitCode::SUCCESS,
        Ok(output) => {
            eprintln!("{}", output.ending);
            ExitCode::FAILURE
        }
        Err(error) => report(&error),
    }
}
