//! `godwit check`: arguments, output, exit code.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use godwit::check::facts::{Facts, parse_list};
use godwit::check::fix::{self, Back, Change, Fixed, Made, Plan, Undone};
use godwit::check::guest::{Files, Guest};
use godwit::check::report::{Detail, Look, Outcome, Report};
use godwit::check::{self, Case, page};
use godwit::spec::{CpuSet, HostCpu, format_cpu_list};
use godwit_api::config::VmConfig;
use rustix::stdio::stdout;
use rustix::termios::tcgetwinsize;

/// Columns where nobody says how many there are.
const WIDTH: usize = 100;

/// Judge whether this host is fit for a guest that must not be disturbed.
///
/// Reads CPU, kernel, interrupts, threads, memory, KVM and NUMA, and says for each
/// item how it stands, why it matters and how to mend it. With a config it judges
/// what that guest needs; without one, isolated CPUs are taken for those of vCPUs.
/// What cannot be read is unknown, never good. The README's "Tune a host" lists
/// the same items in the order in which a host is set up.
///
/// Exit codes: 0 ready; 1 it could not be done, or not all was put back; 2 wrong
/// arguments or a config that cannot be read; 3 ready but for warnings, or items
/// that are not known; 4 not ready.
#[derive(Debug, Args)]
pub struct Checkup {
    /// The config of the guest that the host is for.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The CPUs of vCPUs, as 2-5,8, where there is no config.
    #[arg(long, value_name = "LIST", value_parser = cpus, conflicts_with = "config")]
    cpus: Option<Cpus>,

    /// Print a JSON document (version 1).
    #[arg(long)]
    json: bool,

    /// Show also what is good; -v does, too.
    #[arg(long)]
    all: bool,

    /// How long counters of interrupts are watched, in milliseconds; 0: not at all.
    #[arg(long, value_name = "MS", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(..=600_000))]
    interval: u64,

    /// Read DIR/proc, DIR/sys and DIR/dev instead of this host's own.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,

    /// Change what can be changed at run time, then judge again. Security is left
    /// as it is, and so are services and threads of others.
    #[arg(long, conflicts_with = "undo")]
    fix: bool,

    /// Where --fix writes down what it changed; it must not be there yet.
    /// DIR/run/godwit/check-fix.json when absent.
    #[arg(long, value_name = "FILE", requires = "fix")]
    record: Option<PathBuf>,

    /// Put back what --fix changed, and remove the record when all is back. What
    /// somebody else has changed since stays as it is.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "cpus", "all", "interval"])]
    undo: Option<PathBuf>,

    /// Print the README's "Tune a host".
    #[arg(long, hide = true, exclusive = true)]
    page: bool,

    /// Print the JSON schema of --json.
    #[arg(long, hide = true, exclusive = true)]
    schema: bool,
}

/// CPUs by number.
#[derive(Clone, Debug)]
struct Cpus(CpuSet);

fn cpus(text: &str) -> Result<Cpus, String> {
    match parse_list(text, HostCpu(0)) {
        Some(cpus) if !cpus.is_empty() => Ok(Cpus(cpus)),
        _ => Err("it is no list of CPUs as 2-5,8".to_owned()),
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CheckupError {
    /// Words, or files that they name.
    #[error("{0}")]
    Usage(String, #[source] Option<Box<dyn Error>>),
    /// It could not be done.
    #[error(transparent)]
    Failed(Box<dyn Error>),
    /// Standard output.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

/// Judges, and reports.
pub fn main(checkup: &Checkup, verbose: u8) -> Result<ExitCode, CheckupError> {
    if checkup.page {
        print(&page::page())?;
        return Ok(ExitCode::SUCCESS);
    }
    if checkup.schema {
        return print_json(&check::report::schema()).map(|()| ExitCode::SUCCESS);
    }
    if !checkup.root.join("proc").is_dir() || !checkup.root.join("sys").is_dir() {
        return Err(CheckupError::Usage(
            format!(
                "--root {}: it has no folders proc and sys",
                checkup.root.display()
            ),
            None,
        ));
    }
    if let Some(record) = &checkup.undo {
        return undo(checkup, record);
    }
    let config = match &checkup.config {
        None => None,
        Some(path) => match godwit_api::config::read_file(path) {
            Ok(config) => Some(config),
            Err(error) => {
                return Err(CheckupError::Usage(
                    "--config".to_owned(),
                    Some(error.into()),
                ));
            }
        },
    };
    let fixed = if checkup.fix {
        Some(mend(checkup, config.clone())?)
    } else {
        None
    };
    let facts = check::read(&checkup.root, Duration::from_millis(checkup.interval));
    let guest = guest(checkup, config, &facts)?;
    let case = Case {
        facts: &facts,
        guest: &guest,
    };
    let mut report = check::judge(&case);
    report.fix = fixed;
    if checkup.json {
        print_json(&report)?;
    } else {
        print(&(told(report.fix.as_ref()) + &report.text(look(checkup, verbose))))?;
    }
    Ok(ExitCode::from(code(&report)))
}

fn code(report: &Report) -> u8 {
    match report.outcome {
        Outcome::Ready => 0,
        Outcome::Warnings => 3,
        Outcome::NotReady => 4,
    }
}

fn guest(
    checkup: &Checkup,
    config: Option<VmConfig>,
    facts: &Facts,
) -> Result<Guest, CheckupError> {
    let files = if checkup.root == Path::new("/") {
        Files::Here
    } else {
        Files::Elsewhere
    };
    Ok(match (config, &checkup.cpus) {
        (Some(config), _) => Guest::of(config, facts, files),
        (None, Some(cpus)) => {
            let online = facts.online().cloned().unwrap_or_default();
            let absent: CpuSet = cpus.0.difference(&online).copied().collect();
            if !absent.is_empty() {
                let (absent, online) = (format_cpu_list(&absent), format_cpu_list(&online));
                let reason = format!("--cpus: CPU {absent} is not online; online are {online}");
                return Err(CheckupError::Usage(reason, None));
            }
            Guest::on(&cpus.0, facts)
        }
        (None, None) => Guest::unnamed(facts),
    })
}

fn mend(checkup: &Checkup, config: Option<VmConfig>) -> Result<Fixed, CheckupError> {
    // Nothing that is watched for a while can be written.
    let facts = check::read(&checkup.root, Duration::ZERO);
    let guest = guest(checkup, config, &facts)?;
    let case = Case {
        facts: &facts,
        guest: &guest,
    };
    let record = match &checkup.record {
        Some(record) => record.clone(),
        None => checkup.root.join(fix::DEFAULT_RECORD),
    };
    Plan::of(&case, &checkup.root)
        .apply(&checkup.root, &record)
        .map_err(|error| CheckupError::Failed(error.into()))
}

fn told(fixed: Option<&Fixed>) -> String {
    let Some(fixed) = fixed else {
        return String::new();
    };
    let mut lines = Vec::new();
    for change in &fixed.changes {
        let Change { path, old, new, .. } = change;
        lines.push(match &change.outcome {
            Some(Made::Refused(reason)) => format!("/{path}: {new} was refused: {reason}"),
            Some(Made::Written(now)) if now != new => {
                format!("/{path}: {old} → {now} ({new} was written)")
            }
            _ => format!("/{path}: {old} → {new}"),
        });
    }
    for skipped in &fixed.skipped {
        lines.push(format!(
            "/{}: not changed: {}",
            skipped.path, skipped.reason
        ));
    }
    lines.push(match &fixed.record {
        Some(record) => format!("to put it back: godwit check --undo {}", record.display()),
        None => "nothing was changed".to_owned(),
    });
    lines.join("\n") + "\n\n"
}

fn undo(checkup: &Checkup, record: &Path) -> Result<ExitCode, CheckupError> {
    let undone =
        fix::undo(&checkup.root, record).map_err(|error| CheckupError::Failed(error.into()))?;
    if checkup.json {
        print_json(&undone)?;
    } else {
        print(&undone_text(&undone))?;
    }
    Ok(if undone.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn undone_text(undone: &Undone) -> String {
    let mut text = String::new();
    for change in &undone.changes {
        let old = &change.old;
        let line = match &change.outcome {
            Back::Restored => format!("{old} again"),
            Back::Unchanged => format!("{old}, as before"),
            Back::Foreign(now) => format!("{now} since, by somebody else: left so; it was {old}"),
            Back::Failed(reason) => format!("not put back to {old}: {reason}"),
        };
        text.push_str(&format!("/{}: {line}\n", change.path));
    }
    let record = undone.record.display();
    text.push_str(&if undone.is_complete() {
        format!("all is back; {record} is removed\n")
    } else {
        format!("not all is back; {record} stays\n")
    });
    text
}

fn look(checkup: &Checkup, verbose: u8) -> Look {
    let terminal = io::stdout().is_terminal();
    let size = terminal.then(|| tcgetwinsize(stdout()).ok()).flatten();
    Look {
        detail: if checkup.all || verbose > 0 {
            Detail::All
        } else {
            Detail::Short
        },
        // NO_COLOR is what no-color.org asks programs to heed.
        colour: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        width: match size {
            Some(size) if size.ws_col > 0 => usize::from(size.ws_col),
            _ => WIDTH,
        },
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), CheckupError> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| CheckupError::Failed(error.into()))?;
    print(&(text + "\n"))
}

fn print(text: &str) -> Result<(), CheckupError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(CheckupError::Output)
}
