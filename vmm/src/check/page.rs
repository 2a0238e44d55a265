//! The README's "Tune a host": the table in the order in which a host is set up.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::item::{Group, How, Item, Mend};
use super::table;

/// Before the page in the README.
pub const BEGIN: &str = "<!-- made by `godwit check --page` -->";

/// Behind it.
pub const END: &str = "<!-- end of what `godwit check --page` makes -->";

/// A step of setting up a host.
struct Step {
    title: &'static str,
    /// What is done with what the step lists.
    text: &'static str,
    /// Whether a way to mend an item belongs here.
    takes: fn(&Item, &Mend) -> bool,
    /// What is between the pieces where they are to be written as one.
    between: Option<&'static str>,
}

const STEPS: &[Step] = &[
    Step {
        title: "Firmware",
        text: "In the setup of the machine:",
        takes: |_, mend| mend.how == How::Firmware,
        between: None,
    },
    Step {
        title: "Kernel command line",
        text: "What suits most hosts, in one line:",
        takes: |_, mend| mend.how == How::KernelParameter,
        between: Some(" "),
    },
    Step {
        title: "Run time",
        text: "Until the next boot; `godwit check --fix` does what is a write, and `--undo FILE` \
               takes it back:",
        takes: |item, mend| is_at_run_time(mend) && !is_of_kvm(item),
        between: None,
    },
    Step {
        title: "KVM modules",
        text: "In `/etc/modprobe.d/godwit.conf`, for when the modules are loaded:",
        takes: |item, mend| {
            mend.how == How::ModuleOption || is_of_kvm(item) && is_at_run_time(mend)
        },
        between: Some("\n"),
    },
    Step {
        title: "NUMA",
        text: "Choose CPUs, memory and NIC of one node:",
        takes: |item, _| item.group == Group::Numa,
        between: None,
    },
    Step {
        title: "godwit config",
        text: "In the guest's JSON:",
        takes: |item, mend| mend.how == How::Config && item.group != Group::Numa,
        between: None,
    },
    Step {
        title: "Guest command line",
        text: "In `payload.cmdline`, for a guest with vCPUs 0 to N whose vCPU 0 keeps house:",
        takes: |_, mend| mend.how == How::GuestParameter,
        between: Some(" "),
    },
];

fn is_of_kvm(item: &Item) -> bool {
    item.group == Group::Kvm
}

fn is_at_run_time(mend: &Mend) -> bool {
    matches!(mend.how, How::Write | How::Command | How::Advice)
}

/// The page as Markdown, without the markers around it.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "`CPUS` are the CPUs of vCPUs, `OTHERS` all other CPUs, `MASK` the others in hexadecimal, \
         `NODE` the NUMA node of it all. `godwit check --config vm.json` puts in the numbers of \
         this host.\n",
    );
    let mut told = BTreeSet::new();
    for (number, step) in STEPS.iter().enumerate() {
        let Step { title, text, .. } = step;
        // Writing to a string cannot fail.
        let _ = writeln!(page, "\n**{}. {title}.** {text}\n", number + 1);
        if let Some(between) = step.between {
            let whole = mends(step).filter(|(_, mend)| is_for_most(mend) && !is_at_run_time(mend));
            let whole: Vec<_> = whole.map(|(_, mend)| named(mend.text)).collect();
            let _ = writeln!(page, "```\n{}\n```\n", whole.join(between));
        }
        page.push_str("| how | item |\n|---|---|\n");
        for item in table() {
            let ways = mends(step).filter(|(of, _)| std::ptr::eq(*of, item));
            let ways: Vec<_> = ways.map(|(_, mend)| shown(mend)).collect();
            if ways.is_empty() {
                continue;
            }
            let _ = write!(page, "| {} | {}", ways.join("<br>"), item.id);
            // Once is enough.
            if told.insert(item.id) {
                let _ = write!(page, ": {}", item.why);
            }
            page.push_str(" |\n");
        }
    }
    page
}

/// What a step takes of the table.
fn mends(step: &Step) -> impl Iterator<Item = (&'static Item, &'static Mend)> {
    let all = table().flat_map(|item| item.mend.iter().map(move |mend| (item, mend)));
    all.filter(|(item, mend)| (step.takes)(item, mend))
}

/// A word in brackets behind it says for whom it is: not for all.
fn is_for_most(mend: &Mend) -> bool {
    !mend.text.contains('(')
}

/// Firmware is told in words, all else as it is typed.
fn shown(mend: &Mend) -> String {
    let text = named(mend.text).replace('|', "\\|");
    match (mend.how, text.split_once(" (")) {
        (How::Firmware | How::Advice, _) => text,
        (_, Some((typed, note))) => format!("`{typed}` ({note}"),
        (_, None) => format!("`{text}`"),
    }
}

/// Placeholders by the names that people read.
fn named(text: &str) -> String {
    text.replace("{cpus}", "CPUS")
        .replace("{others}", "OTHERS")
        .replace("{mask}", "MASK")
        .replace("{node}", "NODE")
}

/// The page between its markers in a document.
#[must_use]
pub fn within(document: &str) -> Option<&str> {
    let (_, rest) = document.split_once(BEGIN)?;
    rest.split_once(END).map(|(page, _)| page)
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");

    #[test]
    fn the_readme_has_the_page_of_the_table() {
        let mut readme = std::fs::read_to_string(README).unwrap();
        if std::env::var_os("GODWIT_WRITE_README").is_some() {
            let (before, rest) = readme.split_once(BEGIN).unwrap();
            let (_, after) = rest.split_once(END).unwrap();
            readme = format!("{before}{BEGIN}\n{}{END}{after}", page());
            std::fs::write(README, &readme).unwrap();
        }
        let there = within(&readme).unwrap_or_default();
        assert!(
            there.trim() == page().trim(),
            "\"Tune a host\" of README.md is not what the table makes; write it anew with\n    \
             GODWIT_WRITE_README=1 cargo test -p godwit check::page"
        );
    }

    #[test]
    fn every_way_to_mend_is_on_the_page() {
        let page = page();
        for item in table() {
            for mend in item.mend {
                let text = shown(mend);
                assert!(page.contains(&text), "{}: {text}", item.id);
            }
        }
    }

    #[test]
    fn a_document_without_both_markers_has_no_page() {
        assert_eq!(within(""), None);
        assert_eq!(within(&format!("{END} {BEGIN} x")), None);
        assert_eq!(within(&format!("a{BEGIN}\nb\n{END}c")), Some("\nb\n"));
    }
}
