//! All events.

/// What can happen. Names are the peer's, where it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The process starts.
    VmmStarting,
    /// The process ends.
    VmmShutdown,
    /// The machine is being built.
    Booting,
    /// Its vCPUs run.
    Booted,
    /// Its vCPUs are being stopped.
    Pausing,
    /// They are stopped.
    Paused,
    /// They are being let go on.
    Resuming,
    /// They go on.
    Resumed,
    /// The machine is powered off, to be powered on again.
    Rebooting,
    /// It runs again.
    Rebooted,
    /// The machine is off. Not told by the source of a migration of the guest
    /// that left: a client would take it for the guest's end.
    Shutdown,
    /// The machine is forgotten.
    Deleted,
    /// It is being written to a folder.
    Snapshotting,
    /// It is written.
    Snapshotted,
    /// It is being made from a folder.
    Restoring,
    /// It is made.
    Restored,
    /// All of the memory of a machine that was made from a folder is read; its
    /// guest may have run before; `bytes`.
    MemoryFilled,
    /// Part of it cannot be read: the guest is stopped for good; `reason`.
    MemoryLost,
    /// A device was added to the running machine; `id`, `bdf`.
    DeviceAdded,
    /// A device was taken away; `id`, `bdf`.
    DeviceRemoved,
    /// A driver in the guest has set up a device; `id`.
    DeviceActivated,
    /// A driver in the guest has reset a device; `id`.
    DeviceReset,
    /// The guest starts to leave.
    MigrationStarted,
    /// A round over its memory starts; `id` is the round.
    MigrationMemoryIteration,
    /// The guest runs at the destination.
    MigrationFinished,
    /// It stays here.
    MigrationFailed,
    /// It stays here, as asked for.
    MigrationCancelled,
    /// A guest may come: the socket listens.
    MigrationReceiveReady,
    /// A guest comes.
    MigrationReceiveStarted,
    /// It is here.
    MigrationReceiveFinished,
    /// It does not come.
    MigrationReceiveFailed,
    /// The source has let go of all that the guest had there.
    SourceReleased,
    /// Events before this one were dropped, since nobody read them; `count`.
    EventsDropped,
}

impl EventKind {
    /// Source and name as they are told.
    #[must_use]
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::VmmStarting => ("vmm", "starting"),
            Self::VmmShutdown => ("vmm", "shutdown"),
            Self::Booting => ("vm", "booting"),
            Self::Booted => ("vm", "booted"),
            Self::Pausing => ("vm", "pausing"),
            Self::Paused => ("vm", "paused"),
            Self::Resuming => ("vm", "resuming"),
            Self::Resumed => ("vm", "resumed"),
            Self::Rebooting => ("vm", "rebooting"),
            Self::Rebooted => ("vm", "rebooted"),
            Self::Shutdown => ("vm", "shutdown"),
            Self::Deleted => ("vm", "deleted"),
            Self::Snapshotting => ("vm", "snapshotting"),
            Self::Snapshotted => ("vm", "snapshotted"),
            Self::Restoring => ("vm", "restoring"),
            Self::Restored => ("vm", "restored"),
            Self::MemoryFilled => ("vm", "memory-filled"),
            Self::MemoryLost => ("vm", "memory-lost"),
            Self::DeviceAdded => ("vm", "device-added"),
            Self::DeviceRemoved => ("vm", "device-removed"),
            Self::DeviceActivated => ("virtio-device", "activated"),
            Self::DeviceReset => ("virtio-device", "reset"),
            Self::MigrationStarted => ("vm", "migration-started"),
            Self::MigrationMemoryIteration => ("vm", "migration-memory-iteration"),
            Self::MigrationFinished => ("vm", "migration-finished"),
            Self::MigrationFailed => ("vm", "migration-failed"),
            Self::MigrationCancelled => ("vm", "migration-cancelled"),
            Self::MigrationReceiveReady => ("vm", "migration-receive-ready"),
            Self::MigrationReceiveStarted => ("vm", "migration-receive-started"),
            Self::MigrationReceiveFinished => ("vm", "migration-receive-finished"),
            Self::MigrationReceiveFailed => ("vm", "migration-receive-failed"),
            Self::SourceReleased => ("vm", "source-released"),
            Self::EventsDropped => ("event-monitor", "events-dropped"),
        }
    }
}
