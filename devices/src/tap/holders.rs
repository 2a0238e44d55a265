//! Which processes have a TAP interface open.

use std::fmt;
use std::fs;

/// The processes that have an interface open, as far as `/proc` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders(Vec<(u32, String)>);

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(
                "another program has it open (root sees which one: `grep -l iff /proc/*/fdinfo/*`)",
            );
        }
        f.write_str("it is open in ")?;
        for (i, (pid, command)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}process {pid} ({command})")?;
        }
        f.write_str("; end that program, or use another interface")
    }
}

/// Looks for the interface in every process's descriptors: the kernel shows it
/// in a line `iff:` of `/proc/PID/fdinfo/FD`. Read on the way to an error only.
/// This process is listed when it holds queues of another device.
pub(super) fn of(name: &str) -> Holders {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Holders::default();
    };
    let pids = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| holds(*pid, name));
    let mut found: Vec<_> = pids
        .map(|pid| {
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            (pid, command.trim_end().to_owned())
        })
        .collect();
    // Ourselves only when nobody else is there: then it is named twice in one config.
    if found.len() > 1 {
        found.retain(|(pid, _)| *pid != std::process::id());
    }
    Holders(found)
}

fn holds(pid: u32, name: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return false;
    };
    descriptors.filter_map(Result::ok).any(|entry| {
        fs::read_to_string(entry.path()).is_ok_and(|text| {
            text.lines()
                .filter_map(|line| line.strip_prefix("iff:"))
                .any(|interface| interface.trim() == name)
        })
    })
}
