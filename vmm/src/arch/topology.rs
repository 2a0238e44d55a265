//! How the guest's vCPUs are grouped, and the APIC ids that follow.

#[cfg(test)]
mod tests;

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
        self.threads_per_package() * u32::from(self.packages)
    }

    /// Hardware threads in a die.
    #[must_use]
    pub fn threads_per_die(&self) -> u32 {
        u32::from(self.threads_per_core) * u32::from(self.cores_per_die)
    }

    /// Hardware threads in a package.
    #[must_use]
    pub fn threads_per_package(&self) -> u32 {
        self.threads_per_die() * u32::from(self.dies_per_package)
    }

    /// APIC id bits below the core number.
    #[must_use]
    pub fn core_shift(&self) -> u32 {
        width(self.threads_per_core)
    }

    /// APIC id bits below the die number.
    #[must_use]
    pub fn die_shift(&self) -> u32 {
        self.core_shift() + width(self.cores_per_die)
    }

    /// APIC id bits below the package number.
    #[must_use]
    pub fn package_shift(&self) -> u32 {
        self.die_shift() + width(self.dies_per_package)
    }

    /// The x2APIC id of vCPU `vcpu`, counted from 0.
    ///
    /// Every level has a field of its own in the id, as wide as its count needs, so ids
    /// have gaps where a count is no power of two. KVM takes a vCPU's id for its APIC id:
    /// this is the number for `KVM_CREATE_VCPU`.
    #[must_use]
    pub fn apic_id(&self, vcpu: u32) -> u32 {
        let mut rest = vcpu;
        let mut level = |count: u8| {
            let count = u32::from(count.max(1));
            let number = rest % count;
            rest /= count;
            number
        };
        let thread = level(self.threads_per_core);
        let core = level(self.cores_per_die);
        let die = level(self.dies_per_package);
        thread | core << self.core_shift() | die << self.die_shift() | rest << self.package_shift()
    }
}

/// Bits that number `count` things.
fn width(count: u8) -> u32 {
    u32::from(count).max(1).next_power_of_two().trailing_zeros()
}
