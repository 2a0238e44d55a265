//! Progress of long steps: a spinner on a terminal, plain lines otherwise.

use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One long step. Dropped without [`Step::done`], it leaves nothing on a terminal.
#[derive(Debug)]
pub struct Step {
    name: String,
    started: Instant,
    bar: Option<ProgressBar>,
    told: Cell<Instant>,
}

/// How often a log learns what a step is doing.
const TELL: Duration = Duration::from_secs(30);

impl Step {
    /// Announces the step.
    pub fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("{name} ...");
        }
        Self {
            name,
            started: Instant::now(),
            bar,
            told: Cell::new(Instant::now()),
        }
    }

    /// Says what the step is doing now: at once on a terminal, and in a log now and then.
    pub fn say(&self, what: impl Into<String>) {
        match &self.bar {
            Some(bar) => bar.set_message(what.into()),
            None if self.told.get().elapsed() > TELL => {
                self.told.set(Instant::now());
                eprintln!(
                    "{}: {} ({:.0} s)",
                    self.name,
                    what.into(),
                    self.elapsed().as_secs_f64()
                );
            }
            None => {}
        }
    }

    /// Prints a line that stays, above the spinner when there is one.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Time since the step started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends the step with a line that stays.
    pub fn done(self, result: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!(
            "{}: {result} ({:.1} s)",
            self.name,
            self.started.elapsed().as_secs_f64()
        );
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
