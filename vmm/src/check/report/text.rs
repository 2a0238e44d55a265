//! A report for people.

use std::fmt::Write;

use super::{Finding, Report};
use crate::check::item::{Group, How, State};

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What is good, or does not matter, by name only.
    Short,
    /// Every item.
    All,
}

/// What a report looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// How much is shown.
    pub detail: Detail,
    /// Whether states have colours.
    pub colour: bool,
    /// Columns that there are.
    pub width: usize,
}

const GROUPS: [Group; 6] = [
    Group::Config,
    Group::Cpu,
    Group::Kernel,
    Group::Runtime,
    Group::Kvm,
    Group::Numa,
];

/// What stands before an item's name: its state.
const STATE_WIDTH: usize = 9;

/// What stands before a reason or a way to mend: a word.
const LABEL_WIDTH: usize = 12;

impl Report {
    /// The report as text; every line ends with a newline.
    #[must_use]
    pub fn text(&self, look: Look) -> String {
        let names = self.items.iter().map(|item| item.id.len());
        let indent = STATE_WIDTH + names.max().unwrap_or(0) + 2;
        let page = Page { look, indent };
        let mut text = self.heading();
        for group in GROUPS {
            let items: Vec<_> = self
                .items
                .iter()
                .filter(|item| item.group == group)
                .collect();
            let concerns = items.iter().any(|item| item.state != State::NotApplicable);
            if !concerns && look.detail == Detail::Short || items.is_empty() {
                continue;
            }
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\n{}", page.bold(&group.to_string()));
            for item in &items {
                if look.detail == Detail::All || is_amiss(item.state) {
                    page.item(&mut text, item);
                }
            }
            if look.detail == Detail::Short {
                for state in [State::Good, State::NotApplicable] {
                    let same = items.iter().filter(|item| item.state == state);
                    let names: Vec<_> = same.map(|item| item.id.as_str()).collect();
                    page.names(&mut text, state, &names);
                }
            }
        }
        let counts = &self.counts;
        let warnings = if counts.warning == 1 {
            "warning"
        } else {
            "warnings"
        };
        let _ = writeln!(
            text,
            "\n{} good, {} {warnings}, {} bad, {} unknown",
            counts.good, counts.warning, counts.bad, counts.unknown
        );
        text
    }

    fn heading(&self) -> String {
        let host = &self.host;
        let name = |name: &Option<String>| plain(name.as_deref().unwrap_or("unknown"));
        let cpus = match (host.vcpu_cpus.as_str(), host.other_cpus.as_str()) {
            ("", _) => format!("CPUs {}, none known to be a vCPU's", host.online_cpus),
            (vcpus, others) => format!("vCPUs on {vcpus}, all else on {others}"),
        };
        format!(
            "{}, Linux {}\n{cpus}\n",
            name(&host.cpu),
            name(&host.kernel)
        )
    }
}

fn is_amiss(state: State) -> bool {
    !matches!(state, State::Good | State::NotApplicable)
}

struct Page {
    look: Look,
    indent: usize,
}

impl Page {
    fn item(&self, text: &mut String, item: &Finding) {
        let state = self.state(item.state);
        let name = format!(
            "{:width$}",
            item.id,
            width = self.indent.saturating_sub(STATE_WIDTH)
        );
        let mut lines = item.found.lines().map(plain);
        let first = lines.next().unwrap_or_default();
        let _ = write!(text, "{state}{name}");
        self.wrapped(text, &first, self.indent);
        for line in lines {
            let _ = write!(text, "{:indent$}", "", indent = self.indent);
            self.wrapped(text, &line, self.indent);
        }
        if !is_amiss(item.state) {
            return;
        }
        self.label(text, "why");
        self.wrapped(text, &item.why, STATE_WIDTH + LABEL_WIDTH);
        for remedy in &item.mend {
            let label = match remedy.how {
                How::Firmware => "firmware",
                How::KernelParameter => "boot with",
                How::Write | How::Command | How::Advice => "do",
                How::ModuleOption => "modprobe.d",
                How::Config => "config",
                How::GuestParameter => "guest",
            };
            // On one line however long, to be copied.
            self.label(text, label);
            let _ = writeln!(text, "{}", plain(&remedy.text));
        }
        if item.fixable {
            self.label(text, "or");
            text.push_str("godwit check --fix\n");
        }
    }

    fn label(&self, text: &mut String, label: &str) {
        let label = self.dim(&format!("{label:LABEL_WIDTH$}"));
        let _ = write!(text, "{:STATE_WIDTH$}{label}", "");
    }

    /// Words up to the width; what follows the first line begins at `indent`.
    fn wrapped(&self, text: &mut String, words: &str, indent: usize) {
        let room = self.look.width.saturating_sub(indent).max(24);
        let mut column = 0;
        for word in words.split(' ') {
            let length = word.chars().count();
            if column > 0 && column + 1 + length > room {
                let _ = write!(text, "\n{:indent$}", "");
                column = 0;
            }
            if column > 0 {
                text.push(' ');
                column += 1;
            }
            text.push_str(word);
            column += length;
        }
        text.push('\n');
    }

    fn names(&self, text: &mut String, state: State, names: &[&str]) {
        if names.is_empty() {
            return;
        }
        text.push_str(&self.state(state));
        self.wrapped(text, &names.join(", "), STATE_WIDTH);
    }

    fn state(&self, state: State) -> String {
        let colour = match state {
            State::Good => "32",
            State::Warning => "33",
            State::Bad => "31",
            State::NoPermission | State::Unknown => "35",
            State::NotApplicable => "2",
        };
        let word = format!("{state:STATE_WIDTH$}", state = state.to_string());
        self.styled(&word, colour)
    }

    fn bold(&self, text: &str) -> String {
        self.styled(text, "1")
    }

    fn dim(&self, text: &str) -> String {
        self.styled(text, "2")
    }

    fn styled(&self, text: &str, style: &str) -> String {
        if self.look.colour {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// `text` without what a terminal would act on: names of threads are anybody's.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
