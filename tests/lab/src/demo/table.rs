//! What a switch cost, as text, beside what this project's predecessor reached.

use std::fmt::Write as _;

use super::outcome::Outcome;

/// A time with three digits or so.
pub(super) fn micros(us: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let us = us as f64;
    match us {
        0.0..1e4 => format!("{us:.0} µs"),
        1e4..1e6 => format!("{:.1} ms", us / 1e3),
        1e6..1e7 => format!("{:.2} s", us / 1e6),
        _ => format!("{:.1} s", us / 1e6),
    }
}

pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

fn mib(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let mib = bytes as f64 / f64::from(1 << 20);
    format!("{mib:.1} MiB")
}

/// KVM4NFV's figures for a guest of 8 GiB, idle and forwarding frames.
const THEN: [(&str, [&str; 2]); 2] = [
    ("total", ["401 ms", "654 ms"]),
    ("downtime", ["9 ms", "5 ms"]),
];

/// All that was measured.
pub(super) fn table(outcome: &Outcome) -> String {
    let account = &outcome.account;
    let span = outcome.span();
    let mut text = format!(
        "{} moved a guest of {} MiB that forwards {:.0} frames a second to another instance:\n\n",
        outcome.vmm,
        outcome.memory >> 20,
        outcome.rate()
    );
    let _ = writeln!(
        text,
        "{:<26}{:>14}{:>20}{:>22}",
        "", "this run", "KVM4NFV, idle", "KVM4NFV, forwarding"
    );
    let mut row = |name: &str, value: &str| {
        let then = THEN.iter().find(|(row, _)| *row == name);
        let line = match then {
            Some((_, [idle, forwarding])) => {
                format!("{name:<26}{value:>14}{idle:>20}{forwarding:>22}")
            }
            None => format!("{name:<26}{value:>14}"),
        };
        let _ = writeln!(text, "{line}");
    };
    row("total", &micros(account.total_us));
    row("downtime", &micros(account.downtime_us));
    for (part, us) in account.downtime_parts() {
        row(&format!("  {part}"), &format!("{us} µs"));
    }
    for (phase, us) in account.running_phases() {
        row(&format!("while it ran: {phase}"), &micros(us));
    }
    row("frames lost", &span.lost.to_string());
    row("longest silence", &seconds(span.silence));
    if let Some(present) = account.present_bytes {
        row("memory present", &mib(present));
    }
    row("  of it zero, not sent", &mib(account.zero_bytes));
    row("sent", &mib(account.sent_bytes));
    row("rounds over memory", &account.rounds.to_string());
    text.push('\n');
    text.push_str(
        "KVM4NFV (2016, QEMU 2.4): 8 GiB on 10 GbE between two real machines; its downtime ends at the source,\n\
         ours at the guest's first run at the destination.\n",
    );
    if outcome.emulated {
        text.push_str(
            "This run was in the lab: CPUs, KVM and all are emulated, and so are its times. They say nothing beside\n\
             those of real hardware; only ratios within one run do (`cargo lab bench dpdk`).\n",
        );
    }
    text
}

/// The last line.
pub(super) fn verdict(outcome: &Outcome) -> String {
    let span = outcome.span();
    let sent = outcome.record.flights.len() as u64 + outcome.tally.sent;
    format!(
        "every one of {} frames came back, but for {} in the switch, in which nothing came back for {}",
        sent,
        span.lost,
        seconds(span.silence)
    )
}

#[cfg(test)]
mod tests {
    use super::super::outcome::tests::outcome;
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(micros(170), "170 µs");
        assert_eq!(micros(170_200), "170.2 ms");
        assert_eq!(micros(65_000_000), "65.0 s");
        assert_eq!(seconds(0.424), "424 ms");
    }

    #[test]
    fn the_table_has_both_and_a_warning_in_the_lab() {
        let mut outcome = outcome();
        let text = table(&outcome);
        for word in ["654 ms", "200.0 ms", "50000 µs", "4.30 s", "emulated", "40"] {
            assert!(text.contains(word), "no {word} in:\n{text}");
        }
        outcome.emulated = false;
        assert!(!table(&outcome).contains("emulated"));
    }
}
