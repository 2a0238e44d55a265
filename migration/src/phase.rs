//! The phases of a migration: names, order, and where it cannot be undone.
//!
//! ```text
//!  Connect > Describe > Log > Discover > Copy > Stop > Last > State > Await > HANDOVER > Running > Release
//!  \_________________ a failure resumes the guest at the source _________/ | \___ it never does _______/
//! ```
//!
//! Local handover leaves out Log, Discover, Copy and Last.
//!
//! A destination has the same names for its side of them: Connect is the wait for a
//! source, Describe the building of the machine, Copy and Last are the arrival of
//! memory while the guest runs and after, State is restored, Handover is waited for.

/// What the source, or the destination, is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Connecting, agreeing on a version, comparing clocks.
    Connect,
    /// The destination is being built.
    Describe,
    /// Write tracking starts.
    Log,
    /// Finding what is present.
    Discover,
    /// Memory travels while the guest runs.
    Copy,
    /// vCPUs and devices stop.
    Stop,
    /// The last look at the dirty log; the last pages start to travel.
    Last,
    /// State is read and sent.
    State,
    /// The destination restores.
    Await,
    /// Ownership is given away: the point of no return is inside.
    Handover,
    /// Waiting to hear that the guest runs.
    Running,
    /// Threads, log and memory go away.
    Release,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwind {
    /// The guest is the source's: it resumes there.
    Resume,
    /// The guest may run at the destination: the source must not run it.
    StayPaused,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Self; 12] = [
        Self::Connect,
        Self::Describe,
        Self::Log,
        Self::Discover,
        Self::Copy,
        Self::Stop,
        Self::Last,
        Self::State,
        Self::Await,
        Self::Handover,
        Self::Running,
        Self::Release,
    ];

    /// Its name in the API and in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Describe => "describe",
            Self::Log => "log",
            Self::Discover => "discover",
            Self::Copy => "copy",
            Self::Stop => "stop",
            Self::Last => "last",
            Self::State => "state",
            Self::Await => "await",
            Self::Handover => "handover",
            Self::Running => "running",
            Self::Release => "release",
        }
    }

    /// True if `next` may follow. Only local handover leaves phases out.
    #[must_use]
    pub fn may_become(self, next: Self, local: bool) -> bool {
        let follows = |phase: Self| {
            Self::ALL
                .into_iter()
                .find(|p| *p > phase && !(local && p.copies_memory()))
        };
        follows(self) == Some(next)
    }

    /// True for the phases that local handover has no use for.
    #[must_use]
    pub const fn copies_memory(self) -> bool {
        matches!(self, Self::Log | Self::Discover | Self::Copy | Self::Last)
    }

    /// What a failure in this phase means. Inside [`Phase::Handover`] it is the
    /// kernel's word that decides: a frame whose last byte it did not accept
    /// cannot have arrived, so a failure to send is still a failure before.
    #[must_use]
    pub fn unwind(self) -> Unwind {
        if self <= Self::Handover {
            Unwind::Resume
        } else {
            Unwind::StayPaused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_one_another_and_only_so() {
        for (at, phase) in Phase::ALL.into_iter().enumerate() {
            for (other, next) in Phase::ALL.into_iter().enumerate() {
                assert_eq!(phase.may_become(next, false), other == at + 1);
            }
        }
        assert!(Phase::Describe.may_become(Phase::Stop, true));
        assert!(Phase::Stop.may_become(Phase::State, true));
        assert!(!Phase::Describe.may_become(Phase::Log, true));
    }

    #[test]
    fn there_is_one_point_of_no_return() {
        let changes = Phase::ALL
            .windows(2)
            .filter(|pair| pair[0].unwind() != pair[1].unwind())
            .count();
        assert_eq!(changes, 1);
        assert_eq!(Phase::Await.unwind(), Unwind::Resume);
        assert_eq!(Phase::Running.unwind(), Unwind::StayPaused);
    }

    #[test]
    fn names_are_distinct() {
        let mut names = Phase::ALL.map(Phase::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Phase::ALL.len());
    }
}
