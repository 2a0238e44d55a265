//! Sending a guest away, and showing how it goes.
//!
//! ```text
//! send-migration ─> progress, 10 times a second ─> finished | failed | cancelled
//!                     |  Ctrl-C: cancel-migration
//!                     +─ the connection ends: the source is gone, and the last
//!                        progress says whether because the guest has left
//! ```

use std::time::{Duration, Instant};

use clap::Args;
use godwit_api::client::{Client, ClientError};
use godwit_api::response::{MigrationStatus, Progress};
use indicatif::{ProgressBar, ProgressStyle};

use super::interrupt::{Interrupts, Woken};
use super::table::{bytes, micros, per_second, plain};
use super::verb::{Verb, Words};
use super::{Failure, Form};

/// How often progress is asked for.
const GLANCE: Duration = Duration::from_millis(100);

/// The phase in which the destination has said that the guest runs.
const LAST_PHASE: &str = "release";

/// Where to, and how.
#[derive(Debug, Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    pub(super) words: Words,

    /// End once it has started, and show nothing.
    #[arg(long)]
    detach: bool,
}

/// Sends the guest away.
pub(super) fn run(migrate: &Migrate, client: &mut Client, form: Form) -> Result<(), Failure> {
    let verb = Verb::Migrate(Migrate {
        words: Words {
            words: migrate.words.words.clone(),
        },
        detach: migrate.detach,
    });
    let call = verb.call()?;
    let interrupts = Interrupts::take()?;
    client.call(call.route.method, call.route.path, &call.body, &[])?;
    if migrate.detach {
        return Ok(());
    }
    Watch {
        client,
        interrupts,
        form,
        bar: Bar::new(form),
    }
    .run()
}

struct Watch<'a> {
    client: &'a mut Client,
    interrupts: Interrupts,
    form: Form,
    bar: Bar,
}

impl Watch<'_> {
    fn run(mut self) -> Result<(), Failure> {
        let mut last: Option<Progress> = None;
        let mut cancelling = false;
        loop {
            let next = Instant::now() + GLANCE;
            match self.client.get::<Progress>("vm.migration-progress") {
                Ok(progress) => {
                    self.show(&progress)?;
                    if let Some(end) = end(&progress) {
                        self.bar.clear();
                        return match end {
                            Ok(()) => self.succeed(&progress),
                            Err(failure) => Err(failure),
                        };
                    }
                    last = Some(progress);
                }
                Err(error) if is_gone(&error) => {
                    self.bar.clear();
                    return match last {
                        Some(last) if last.phase == LAST_PHASE => self.succeed(&last),
                        last => Err(Failure::Lost {
                            phase: last.map_or_else(|| "unknown".to_owned(), |last| last.phase),
                            source: error,
                        }),
                    };
                }
                Err(error) => {
                    self.bar.clear();
                    return Err(error.into());
                }
            }
            // SIGWINCH and keys do not end the wait for the next look.
            while let Woken::Signal = self.interrupts.wait(next)? {
                if cancelling {
                    self.bar.clear();
                    return Err(Failure::Unwatched);
                }
                cancelling = true;
                self.bar.say("cancelling; once more to stop watching");
                // Refused: it has just ended, and progress says how.
                match self.client.put("vm.cancel-migration") {
                    Ok(_) | Err(ClientError::Refused { .. }) => (),
                    // Gone: the next look sees it.
                    Err(error) if is_gone(&error) => (),
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }

    fn show(&mut self, progress: &Progress) -> Result<(), Failure> {
        if self.form == Form::Json {
            let line = serde_json::to_string(progress).unwrap_or_default();
            return super::print(&(line + "\n"));
        }
        self.bar.update(progress);
        Ok(())
    }

    fn succeed(&self, progress: &Progress) -> Result<(), Failure> {
        if self.form == Form::Json {
            return Ok(());
        }
        super::print(&summary(progress))
    }
}

/// How it ended, if it did.
fn end(progress: &Progress) -> Option<Result<(), Failure>> {
    match progress.status {
        MigrationStatus::Ongoing => None,
        MigrationStatus::Finished => Some(Ok(())),
        MigrationStatus::Failed => Some(Err(Failure::Migration(Box::new(progress.clone())))),
        MigrationStatus::Cancelled => Some(Err(Failure::Cancelled(Box::new(progress.clone())))),
    }
}

/// Whether nobody is there any more.
fn is_gone(error: &ClientError) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    match error {
        ClientError::Connect { .. } | ClientError::Closed => true,
        ClientError::Send(error) | ClientError::Receive(error) => {
            matches!(error.kind(), BrokenPipe | ConnectionReset)
        }
        _ => false,
    }
}

/// How much of the memory is over. A source that does not know what is left has
/// sent at least this much.
fn done(progress: &Progress) -> u64 {
    let over = match progress.remaining_bytes {
        0 => progress.sent_bytes.saturating_add(progress.zero_bytes),
        left => progress.present_bytes.saturating_sub(left),
    };
    over.min(progress.present_bytes)
}

fn summary(progress: &Progress) -> String {
    let downtime = match progress.downtime_us {
        Some(us) => format!("downtime {}, ", micros(us)),
        None => String::new(),
    };
    format!(
        "the guest has moved: {downtime}{} in all; {} sent of {} present, {} round(s)\n",
        micros(progress.total_us),
        bytes(progress.sent_bytes),
        bytes(progress.present_bytes),
        progress.rounds,
    )
}

/// A line on the terminal of standard error; nothing where that is none.
struct Bar {
    bar: ProgressBar,
    /// When, and what had been sent then.
    before: (Instant, u64),
}

impl Bar {
    fn new(form: Form) -> Self {
        let bar = match form {
            Form::Text => ProgressBar::new(0),
            Form::Json => ProgressBar::hidden(),
        };
        if let Ok(style) = ProgressStyle::with_template("{prefix:10} {bar:24} {percent:>3}%  {msg}")
        {
            bar.set_style(style);
        }
        Self {
            bar,
            before: (Instant::now(), 0),
        }
    }

    fn update(&mut self, progress: &Progress) {
        let (then, sent) = self.before;
        let rate = per_second(progress.sent_bytes.saturating_sub(sent), then.elapsed());
        self.before = (Instant::now(), progress.sent_bytes);
        self.bar.set_prefix(plain(&progress.phase));
        self.bar.set_length(progress.present_bytes);
        self.bar.set_position(done(progress));
        self.bar.set_message(format!(
            "{} present, {} sent, {}/s, dirty {}/s, downtime {}",
            bytes(progress.present_bytes),
            bytes(progress.sent_bytes),
            bytes(rate),
            bytes(progress.dirty_pages_per_second.saturating_mul(4096)),
            match (progress.downtime_us, progress.predicted_downtime_us) {
                (Some(us), _) => micros(us),
                (None, Some(us)) => format!("{} predicted", micros(us)),
                (None, None) => "not known yet".to_owned(),
            }
        ));
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("godwit: {text}"));
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests;
