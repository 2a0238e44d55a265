//! How the guest's vCPUs are grouped.

/// The shape of the guest's processor, outermost level last.
///
/// The product of the four numbers is the number of vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Hardware threads in a core, 1 or 2.
    pub threads_per_core: u8,
    /// Cores in a die.
    pub cores_per_die: u8,
    /// Dies in a package.
    pub dies_per_package: u8,
    /// Packages (sockets) in the machine.
    pub packages: u8,
}

impl Topology {
    /// One package with one die, one thread per core.
    #[must_use]
    pub const fn flat(vcpus: u8) -> Self {
        Self {
            threads_per_core: 1,
            cores_per_die: vcpus,
            dies_per_package: 1,
            packages: 1,
        }
    }

    /// The number of vCPUs.
    #[must_use]
    pub fn vcpus(&self) -> u32 {
        u32::from(self.threads_per_core)
            * u32::from(self.cores_per_die)
            * u32::from(self.dies_per_package)
            * u32::from(self.packages)
    }
}
