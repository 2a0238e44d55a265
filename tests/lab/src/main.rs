//! `cargo lab`.

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use godwit_lab::bench::{self, Bench};
use godwit_lab::doctor::Report;
use godwit_lab::image::Image;
use godwit_lab::payload;

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
    Image,
    /// Say what this machine is, what is missing and what runs where
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure godwit beside other VMMs
    #[command(subcommand)]
    Bench(Bench),
}

fn main() -> ExitCode {
    let result: Result<(), Box<dyn Error>> = match Arguments::parse().verb {
        Verb::Payload => payload::build()
            .map(|images| images.print())
            .map_err(Into::into),
        Verb::Image => Image::build()
            .map(|image| println!("{}", image.folder().display()))
            .map_err(Into::into),
        Verb::Doctor { json } => doctor(json),
        Verb::Bench(what) => bench::run(&what).map_err(Into::into),
    };
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
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
