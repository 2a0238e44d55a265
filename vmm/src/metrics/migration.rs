//! The migration under way, or the last one: what `vm.migration-progress` shows, as
//! figures. They start anew with each migration, so all of them are gauges.

use godwit_api::metrics::{Family, Page};
use godwit_api::response::{MigrationRole, MigrationStatus, Progress};

const STATUS: Family = Family::gauge(
    "godwit_migration_status",
    "1 for how the migration under way, or the last one, stands; 0 for the others.",
    &["role", "status"],
);
const PHASE: Family = Family::gauge(
    "godwit_migration_phase_seconds",
    "Time spent in a phase of the migration.",
    &["phase"],
);
const DURATION: Family = Family::gauge(
    "godwit_migration_duration_seconds",
    "Time from the request to now, or to the end of the migration.",
    &[],
);
const DOWNTIME: Family = Family::gauge(
    "godwit_migration_downtime_seconds",
    "Time from the stop of the first vCPU at the source to the first run at the destination.",
    &[],
);
const PREDICTED: Family = Family::gauge(
    "godwit_migration_predicted_downtime_seconds",
    "How long the guest would stand still if it stopped now.",
    &[],
);
const ROUNDS: Family = Family::gauge("godwit_migration_rounds", "Rounds over memory so far.", &[]);
const DIRTY: Family = Family::gauge(
    "godwit_migration_dirty_pages_per_second",
    "Pages of 4 KiB that the guest wrote a second, as seen in the last round.",
    &[],
);
const PRESENT: Family = Family::gauge(
    "godwit_migration_present_bytes",
    "Guest memory that is backed by pages at all.",
    &[],
);
const SCANNED: Family = Family::gauge(
    "godwit_migration_scanned_bytes",
    "Guest memory that was read to be sent.",
    &[],
);
const ZERO: Family = Family::gauge(
    "godwit_migration_zero_bytes",
    "Guest memory that was found zero and not sent.",
    &[],
);
const SENT: Family = Family::gauge("godwit_migration_sent_bytes", "Bytes on the wire.", &[]);
const REMAINING: Family = Family::gauge(
    "godwit_migration_remaining_bytes",
    "Guest memory of the round under way that is still to be sent.",
    &[],
);

const fn role(role: MigrationRole) -> &'static str {
    match role {
        MigrationRole::Source => "source",
        MigrationRole::Destination => "destination",
    }
}

const STATUSES: [(MigrationStatus, &str); 4] = [
    (MigrationStatus::Ongoing, "ongoing"),
    (MigrationStatus::Finished, "finished"),
    (MigrationStatus::Failed, "failed"),
    (MigrationStatus::Cancelled, "cancelled"),
];

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

pub(super) fn show(page: &mut Page, progress: &Progress) {
    for (status, name) in STATUSES {
        let is = u64::from(status == progress.status);
        page.set(&STATUS, &[role(progress.role), name], is);
    }
    for phase in &progress.phases {
        page.set(&PHASE, &[phase.phase.as_str()], seconds(phase.us));
    }
    page.set(&DURATION, &[], seconds(progress.total_us));
    for (family, us) in [
        (&DOWNTIME, progress.downtime_us),
        (&PREDICTED, progress.predicted_downtime_us),
    ] {
        if let Some(us) = us {
            page.set(family, &[], seconds(us));
        }
    }
    for (family, value) in [
        (&ROUNDS, progress.rounds),
        (&DIRTY, progress.dirty_pages_per_second),
        (&PRESENT, progress.present_bytes),
        (&SCANNED, progress.scanned_bytes),
        (&ZERO, progress.zero_bytes),
        (&SENT, progress.sent_bytes),
        (&REMAINING, progress.remaining_bytes),
    ] {
        page.set(family, &[], value);
    }
}
