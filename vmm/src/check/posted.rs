//! Posted interrupts: into a guest that runs, without making it stop.

use super::case::Case;
use super::facts::{Fact, seen};
use super::item::{Group, Item, Mend, Verdict};

const APICV: &str = "sys/module/kvm_intel/parameters/enable_apicv";
const AVIC: &str = "sys/module/kvm_amd/parameters/avic";

pub(super) const ROW: Item = Item {
    id: "posted-interrupts",
    group: Group::Cpu,
    reads: &["proc/cpuinfo", APICV, AVIC],
    judge,
    why: "an interrupt of vhost reaches a running vCPU without an exit of 1-2 µs",
    mend: &[
        Mend::firmware("VT-d with interrupt remapping, or AMD IOMMU and x2AVIC: enabled"),
        Mend::module("options kvm_intel enable_apicv=Y"),
        Mend::module("options kvm_amd avic=1"),
    ],
    fix: None,
};

fn judge(case: &Case<'_>) -> Fact<Verdict> {
    let facts = case.facts;
    let (name, path) = match (facts.optional(APICV)?, facts.optional(AVIC)?) {
        (Some(_), _) => ("APICv", APICV),
        (None, Some(_)) => ("AVIC", AVIC),
        (None, None) => {
            return Ok(Verdict::not_applicable(
                "neither kvm_intel nor kvm_amd is loaded",
            ));
        }
    };
    if facts.switch(path)? {
        return Ok(Verdict::good(name));
    }
    let processor = seen(&facts.processor)?;
    let able = match name {
        "APICv" => processor.has_vmx("posted_intr") != Some(false),
        _ => processor.has("avic"),
    };
    Ok(if able {
        Verdict::warning(format!("{name} is off"))
    } else {
        Verdict::warning(format!("{name} is off, and this CPU does not show it"))
    })
}
