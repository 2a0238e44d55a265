//! `cargo lab`.

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use godwit_lab::bench::{self, Bench};
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
    /// Measure godwit beside other VMMs
    #[command(subcommand)]
    Bench(Bench),
}

fn main() -> ExitCode {
    let result: Result<(), Box<dyn Error>> = match Arguments::parse().verb {
        Verb::Payload => payload::build()
            .map(|images| images.print())
            .map_err(Into::into),
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
