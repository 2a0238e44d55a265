//! A live screen: state, vCPUs, threads, devices, memory.
//!
//! ```text
//! vm.info, vm.counters, /metrics ─> Look ─ two of them ─> picture (text) ─> screen, or lines
//! ```
//!
//! What this godwit does not count is left out, with the reason.

mod picture;
mod screen;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use clap::Args;
use godwit_api::client::{Client, ClientError};
use godwit_api::response::{Counters, Info};
use godwit_api::router::Method;
use serde::Serialize;

use super::interrupt::{Interrupts, Woken};
use super::metrics::{self, Sample};
use super::{Failure, Form};
use screen::Screen;

/// How often, and how long.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// Seconds from one look to the next.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    interval: f64,

    /// End after so many pictures.
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
}

/// What was seen at one time.
#[derive(Debug)]
struct Look {
    at: Instant,
    state: String,
    counters: Result<Counters, String>,
    samples: Result<Vec<Sample>, String>,
}

impl Look {
    fn take(client: &mut Client) -> Result<Self, Failure> {
        let state = match client.get::<Info>("vm.info") {
            Ok(info) => format!("{:?}", info.state),
            Err(ClientError::Refused { status: 404, .. }) => "no VM".to_owned(),
            Err(error) => return Err(error.into()),
        };
        let samples = client
            .call(Method::Get, "/metrics", &[], &[])
            .map(|answer| metrics::samples(&String::from_utf8_lossy(&answer.body)).collect());
        Ok(Self {
            counters: or_reason(client.get::<Counters>("vm.counters"))?,
            samples: or_reason(samples)?,
            state,
            at: Instant::now(),
        })
    }
}

/// A refusal is something to show; anything else ends the watch.
fn or_reason<T>(got: Result<T, ClientError>) -> Result<Result<T, String>, Failure> {
    match got {
        Ok(value) => Ok(Ok(value)),
        Err(ClientError::Refused { chain, .. }) => Ok(Err(chain.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// Shows pictures until told to stop.
pub(super) fn run(top: &Top, client: &mut Client, form: Form) -> Result<(), Failure> {
    let interval = Duration::try_from_secs_f64(top.interval)
        .ok()
        .filter(|interval| *interval >= Duration::from_millis(50))
        .ok_or_else(|| Failure::usage("--interval: 0.05 seconds is the least"))?;
    let interrupts = Interrupts::take()?;
    // Before the screen is taken: a refusal is to be read.
    let mut now = Look::take(client)?;
    let mut screen = match form {
        Form::Text if io::stdout().is_terminal() => Some(Screen::enter()?),
        _ => None,
    };
    if screen.is_some() {
        // Something to see at once; rates need a second look.
        show(&now, &now, screen.as_mut(), form)?;
    }
    let mut left = top.count;
    let mut next = Instant::now();
    while left != Some(0) {
        next += interval;
        loop {
            match interrupts.wait_with_keys(next)? {
                Woken::Time => break,
                Woken::Resized if screen.is_some() => {
                    show(&now, &now, screen.as_mut(), form)?;
                }
                Woken::Signal | Woken::Key(Some(b'q' | b'Q' | 0x03 | 0x1b) | None) => return Ok(()),
                Woken::Resized | Woken::Key(_) => (),
            }
        }
        // After a stop of the process: do not catch up.
        next = next.max(Instant::now());
        let before = std::mem::replace(&mut now, Look::take(client)?);
        show(&before, &now, screen.as_mut(), form)?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn show(before: &Look, now: &Look, screen: Option<&mut Screen>, form: Form) -> Result<(), Failure> {
    if form == Form::Json {
        #[derive(Serialize)]
        struct Line<'a> {
            state: &'a str,
            figures: picture::Figures,
        }
        let line = Line {
            state: &now.state,
            figures: picture::Figures::between(before, now),
        };
        let line = serde_json::to_string(&line).unwrap_or_default();
        return super::print(&(line + "\n"));
    }
    let text = picture::text(before, now);
    match screen {
        Some(screen) => screen.draw(&text),
        None => super::print(&(text + "\n")),
    }
}
