//! What is legal when: a pure table.
//!
//! ```text
//!            create         boot                        pause
//!   Empty ----------> Created ----> Booting ----> Running <-----> Paused
//!    ^ |  <----------    ^  delete                 |    | resume   |
//!    | |     delete      +-------- shutdown -------+----|----------+
//!    | |                                                |
//!    | +--> Receiving / Restoring ----> Running, Paused |  send
//!    |                                                  v
//!    +------- the process ends <---- gone ---------- Sending ----> back
//!                                                       |
//!                                                       +---> Unsettled
//! ```
//!
//! *Unsettled* is a guest that may run at the destination: the last word of a
//! migration was lost. It is paused here, and an operator decides: `resume`
//! claims it, `delete` gives it up.
//!
//! *Lost* is a guest whose memory was being read from a snapshot while it ran,
//! and cannot be read to the end. It is stopped for good.

use std::fmt;

/// Where a machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is none.
    Empty,
    /// Described, not built.
    Created,
    /// Being built.
    Booting,
    /// Its vCPUs run.
    Running,
    /// Its vCPUs are stopped.
    Paused,
    /// Its vCPUs are being stopped, and what its devices do is waited for.
    Pausing,
    /// Its devices and vCPUs are let go on.
    Resuming,
    /// Being taken apart.
    Stopping,
    /// Its guest switched itself off.
    Shutdown,
    /// Being taken apart and built again.
    Rebooting,
    /// Being written to a folder.
    Snapshotting,
    /// Being read from a folder.
    Restoring,
    /// Leaving for another instance.
    Sending,
    /// Coming from another instance.
    Receiving,
    /// It may run elsewhere: see the module.
    Unsettled,
    /// Part of its memory is lost: see the module.
    Lost,
}

/// What a client can ask of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Describe a machine.
    Create,
    /// Build it and let it run.
    Boot,
    /// Power it off.
    Shutdown,
    /// Power it off and on.
    Reboot,
    /// Forget it.
    Delete,
    /// Stop its vCPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// Press its power button.
    PowerButton,
    /// Show its description.
    Info,
    /// Show its counters.
    Counters,
    /// Add a network device.
    AddNet,
    /// Take a device away.
    RemoveDevice,
    /// Write it to a folder.
    Snapshot,
    /// Read it from a folder.
    Restore,
    /// Send it elsewhere.
    Send,
    /// Receive it from elsewhere.
    Receive,
    /// Stop a migration.
    Cancel,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Empty,
        Self::Created,
        Self::Booting,
        Self::Running,
        Self::Paused,
        Self::Shutdown,
        Self::Rebooting,
        Self::Snapshotting,
        Self::Restoring,
        Self::Sending,
        Self::Receiving,
        Self::Unsettled,
        Self::Pausing,
        Self::Resuming,
        Self::Lost,
        Self::Stopping,
    ];

    /// As a reason for a refusal.
    const fn reason(self) -> &'static str {
        match self {
            Self::Empty => "there is no VM: create it first",
            Self::Created => "the VM is not booted",
            Self::Booting => "the VM is booting",
            Self::Running => "the VM is running",
            Self::Paused => "the VM is paused",
            Self::Pausing => "the VM is being paused",
            Self::Resuming => "the VM is being resumed",
            Self::Stopping => "the VM is being shut down",
            Self::Lost => "part of the VM's memory could not be read from its snapshot: delete it",
            Self::Shutdown => "the VM is shut down",
            Self::Rebooting => "the VM is rebooting",
            Self::Snapshotting => "a snapshot of the VM is being written",
            Self::Restoring => "a VM is being restored",
            Self::Sending => "the VM is migrating to another instance",
            Self::Receiving => "a VM is migrating to this instance",
            Self::Unsettled => {
                "the VM may run at the destination of its last migration: resume it here, or delete it"
            }
        }
    }
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Create,
        Self::Boot,
        Self::Shutdown,
        Self::Reboot,
        Self::Delete,
        Self::Pause,
        Self::Resume,
        Self::PowerButton,
        Self::Info,
        Self::Counters,
        Self::AddNet,
        Self::RemoveDevice,
        Self::Snapshot,
        Self::Restore,
        Self::Send,
        Self::Receive,
        Self::Cancel,
    ];

    /// What was attempted, as the first line of an error.
    #[must_use]
    pub const fn attempt(self) -> &'static str {
        match self {
            Self::Create => "The VM could not be created",
            Self::Boot => "The VM could not boot",
            Self::Shutdown => "The VM could not be shut down",
            Self::Reboot => "The VM could not reboot",
            Self::Delete => "The VM could not be deleted",
            Self::Pause => "The VM could not be paused",
            Self::Resume => "The VM could not resume",
            Self::PowerButton => "The power button could not be pressed",
            Self::Info => "The VM's information is not available",
            Self::Counters => "The VM's counters are not available",
            Self::AddNet => "The network device could not be added",
            Self::RemoveDevice => "The device could not be removed",
            Self::Snapshot => "The VM could not be snapshotted",
            Self::Restore => "The VM could not be restored",
            Self::Send => "The VM could not be sent",
            Self::Receive => "The VM could not be received",
            Self::Cancel => "The migration could not be cancelled",
        }
    }

    /// Where it is legal.
    const fn legal_in(self) -> &'static [Phase] {
        use Phase as P;
        match self {
            Self::Create | Self::Restore | Self::Receive => &[P::Empty],
            Self::Boot => &[P::Created, P::Shutdown],
            Self::Shutdown | Self::Reboot | Self::Counters | Self::Send => &[P::Running, P::Paused],
            // Deleting what is not there succeeds, as the peer has it.
            Self::Delete => &[
                P::Empty,
                P::Created,
                P::Running,
                P::Paused,
                P::Shutdown,
                P::Unsettled,
                P::Lost,
            ],
            Self::Pause | Self::PowerButton => &[P::Running],
            Self::Resume => &[P::Paused, P::Unsettled],
            Self::Snapshot => &[P::Paused],
            Self::AddNet | Self::RemoveDevice => &[P::Created, P::Running, P::Paused, P::Shutdown],
            Self::Cancel => &[P::Sending, P::Receiving],
            Self::Info => &[
                P::Created,
                P::Booting,
                P::Running,
                P::Paused,
                P::Shutdown,
                P::Rebooting,
                P::Snapshotting,
                P::Restoring,
                P::Sending,
                P::Unsettled,
                P::Pausing,
                P::Resuming,
                P::Lost,
                P::Stopping,
            ],
        }
    }
}

/// A request that is not legal now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was asked.
    pub verb: Verb,
    /// The phase in which it was asked.
    pub phase: Phase,
}

impl Refusal {
    /// Whether the reason is that there is no machine.
    #[must_use]
    pub fn is_missing(self) -> bool {
        self.phase == Phase::Empty
    }

    /// What was attempted, as the first line of the answer.
    #[must_use]
    pub const fn attempt(self) -> &'static str {
        self.verb.attempt()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.verb, self.phase) {
            (Verb::Create | Verb::Restore | Verb::Receive, phase) => {
                write!(
                    f,
                    "{}; this instance holds one VM at a time",
                    phase.reason()
                )
            }
            (Verb::Cancel, _) => f.write_str("no migration is under way"),
            (Verb::Snapshot, Phase::Running) => f.write_str("the VM is running: pause it first"),
            (_, phase) => f.write_str(phase.reason()),
        }
    }
}

impl std::error::Error for Refusal {}

/// Whether `verb` is legal in `phase`.
///
/// # Errors
/// Why it is not.
pub fn check(phase: Phase, verb: Verb) -> Result<(), Refusal> {
    if verb.legal_in().contains(&phase) {
        Ok(())
    } else {
        Err(Refusal { verb, phase })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table: rows are verbs, columns phases, in the order of `ALL`.
    const TABLE: [&str; 17] = [
        // Empty Created Booting Running Paused Shutdown Rebooting Snapshotting
        // Restoring Sending Receiving Unsettled Pausing Resuming Lost Stopping
        "x...............", // create
        ".x...x..........", // boot
        "...xx...........", // shutdown
        "...xx...........", // reboot
        "xx.xxx.....x..x.", // delete
        "...x............", // pause
        "....x......x....", // resume
        "...x............", // power-button
        ".xxxxxxxxx.xxxxx", // info
        "...xx...........", // counters
        ".x.xxx..........", // add-net
        ".x.xxx..........", // remove-device
        "....x...........", // snapshot
        "x...............", // restore
        "...xx...........", // send
        "x...............", // receive
        ".........xx.....", // cancel
    ];

    #[test]
    fn every_pair_is_as_the_table_says() {
        for (verb, row) in Verb::ALL.into_iter().zip(TABLE) {
            for (phase, cell) in Phase::ALL.into_iter().zip(row.chars()) {
                assert_eq!(
                    check(phase, verb).is_ok(),
                    cell == 'x',
                    "{verb:?} {phase:?}"
                );
            }
        }
    }

    #[test]
    fn refusals_say_why() {
        let refusal = check(Phase::Sending, Verb::Pause).unwrap_err();
        assert_eq!(refusal.attempt(), "The VM could not be paused");
        assert_eq!(
            refusal.to_string(),
            "the VM is migrating to another instance"
        );
        let refusal = check(Phase::Empty, Verb::Boot).unwrap_err();
        assert!(refusal.is_missing());
        assert_eq!(refusal.to_string(), "there is no VM: create it first");
    }
}
