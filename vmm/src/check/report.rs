//! What was found: for scripts as JSON, for people as text.

mod text;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Case;
use super::fix::Fixed;
use super::item::{Group, How, Item, State, Verdict};
use crate::spec::format_cpu_list;

pub use text::{Detail, Look};

/// The version of the document; it changes when a field is taken away or means
/// something else.
pub const VERSION: u32 = 1;

/// All of what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The version of this document, 1.
    pub version: u32,
    /// What it comes to.
    pub outcome: Outcome,
    /// How many items stand how.
    pub counts: Counts,
    /// The host.
    pub host: Host,
    /// The items, by group.
    pub items: Vec<Finding>,
    /// What `--fix` changed before; absent without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fixed>,
}

/// What a report comes to.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every item that matters is good.
    Ready,
    /// Some are warnings, or not known.
    Warnings,
    /// Some are bad.
    NotReady,
}

/// How many items stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Good.
    pub good: usize,
    /// Warnings.
    pub warning: usize,
    /// Bad.
    pub bad: usize,
    /// Not known, for want of permission or for another reason.
    pub unknown: usize,
    /// Those that do not concern this host or this config.
    pub not_applicable: usize,
}

/// The host that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// The kernel's release, when it is known.
    pub kernel: Option<String>,
    /// The CPU's model, when it is known.
    pub cpu: Option<String>,
    /// CPUs that are online, as 0-3,8.
    pub online_cpus: String,
    /// CPUs that are taken for those of vCPUs; empty: none are known.
    pub vcpu_cpus: String,
    /// All other CPUs.
    pub other_cpus: String,
}

/// One item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// Its name.
    pub id: String,
    /// Its group.
    pub group: Group,
    /// How it stands.
    pub state: State,
    /// What was found; lines when there are several.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// How it is mended; empty when there is nothing to mend.
    pub mend: Vec<Remedy>,
    /// Whether `--fix` mends it until the next boot.
    pub fixable: bool,
    /// What is read for it; a `*` stands for many files.
    pub reads: Vec<String>,
}

/// A way to mend something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Remedy {
    /// Where.
    pub how: How,
    /// What to write there.
    pub text: String,
}

/// The schema of the document.
#[must_use]
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(Report)
}

impl Report {
    pub(super) fn new(
        case: &Case<'_>,
        verdicts: impl Iterator<Item = (&'static Item, Verdict)>,
    ) -> Self {
        let items: Vec<_> = verdicts
            .map(|(item, verdict)| Finding::new(case, item, verdict))
            .collect();
        let mut counts = Counts::default();
        for item in &items {
            let count = match item.state {
                State::Good => &mut counts.good,
                State::Warning => &mut counts.warning,
                State::Bad => &mut counts.bad,
                State::NoPermission | State::Unknown => &mut counts.unknown,
                State::NotApplicable => &mut counts.not_applicable,
            };
            *count += 1;
        }
        let facts = case.facts;
        let processor = facts.processor.as_ref().ok();
        Self {
            version: VERSION,
            outcome: match (counts.bad, counts.warning + counts.unknown) {
                (0, 0) => Outcome::Ready,
                (0, _) => Outcome::Warnings,
                (_, _) => Outcome::NotReady,
            },
            counts,
            host: Host {
                kernel: facts.release().map(str::to_owned),
                cpu: processor
                    .map(|cpu| cpu.model.clone())
                    .filter(|model| !model.is_empty()),
                online_cpus: facts.online().map(format_cpu_list).unwrap_or_default(),
                vcpu_cpus: format_cpu_list(&case.guest.cpus),
                other_cpus: format_cpu_list(&case.others()),
            },
            items,
            fix: None,
        }
    }

    /// An item by its name.
    #[must_use]
    pub fn item(&self, id: &str) -> Option<&Finding> {
        self.items.iter().find(|item| item.id == id)
    }
}

impl Finding {
    fn new(case: &Case<'_>, item: &Item, verdict: Verdict) -> Self {
        let amiss = matches!(
            verdict.state,
            State::Warning | State::Bad | State::Unknown | State::NoPermission
        );
        let mend: Vec<_> = match (amiss, verdict.mend.as_slice()) {
            (false, _) => Vec::new(),
            (true, []) => item
                .mend
                .iter()
                .filter(|mend| case.concerns(mend))
                .map(|mend| Remedy {
                    how: mend.how,
                    text: case.fill(mend.text),
                })
                .collect(),
            (true, exact) => exact
                .iter()
                .map(|(how, text)| Remedy {
                    how: *how,
                    text: text.clone(),
                })
                .collect(),
        };
        let is_fixable = matches!(verdict.state, State::Warning | State::Bad)
            && item.fix.is_some_and(|fix| !fix(case).is_empty());
        Self {
            id: item.id.to_owned(),
            group: item.group,
            state: verdict.state,
            found: verdict.found,
            why: item.why.to_owned(),
            mend,
            fixable: is_fixable,
            reads: item.reads.iter().map(|path| format!("/{path}")).collect(),
        }
    }
}
