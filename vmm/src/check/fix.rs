//! What can be changed at run time, and the way back.
//!
//! ```text
//! plan ── record (all of it, before the first write) ── writes ── record (what came of each)
//! undo:  record ── each in reverse: is it still what was written? ── write the old value
//! ```
//!
//! A crash between the two records loses nothing: the first one has every old
//! value, and undoing a change that was not made finds the old value there.

mod record;
mod value;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::item::{State, Write};
use super::{Case, table};

pub use record::{MAX_RECORD_BYTES, Record, RecordError};
use value::{Setting, SettingError};

/// Where the record goes, below the root, unless told otherwise.
pub const DEFAULT_RECORD: &str = "run/godwit/check-fix.json";

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The item that it mends.
    pub item: String,
    /// The file, without the root that it is below.
    pub path: String,
    /// What it held.
    pub old: String,
    /// What is written to it.
    pub new: String,
    /// What came of it; absent: it is not known whether it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Made>,
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Made {
    /// The file was written, and held this then.
    Written(String),
    /// It could not be written, for this reason.
    Refused(String),
}

/// A change that is not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Skipped {
    /// The item.
    pub item: String,
    /// The file.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// What is to be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// Those that cannot be made.
    pub skipped: Vec<Skipped>,
}

/// What was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fixed {
    /// The record, for `--undo`; absent: there was nothing to change.
    pub record: Option<PathBuf>,
    /// The changes.
    pub changes: Vec<Change>,
    /// Those that were not made.
    pub skipped: Vec<Skipped>,
}

/// What came of undoing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Undone {
    /// The version of this document, 1.
    pub version: u32,
    /// The record.
    pub record: PathBuf,
    /// The changes, in the order in which they were undone.
    pub changes: Vec<Reverted>,
}

/// What came of undoing one change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reverted {
    /// The file.
    pub path: String,
    /// What it held before the fix.
    pub old: String,
    /// What came of it.
    pub outcome: Back,
}

/// How a file stands after undoing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Back {
    /// It holds the old value again.
    Restored,
    /// It held the old value already.
    Unchanged,
    /// Somebody else has changed it since, to this, and it stays so.
    Foreign(String),
    /// It could not be read or written, for this reason.
    Failed(String),
}

/// Why nothing was fixed.
#[derive(Debug, Error)]
pub enum FixError {
    /// The record could not be made, so nothing was changed.
    #[error("nothing was changed")]
    Before(#[source] RecordError),
    /// The changes are made, but what came of them is not written down.
    #[error(
        "the changes are made, and the record has all that --undo needs, but not their outcome"
    )]
    After(#[source] RecordError),
}

impl Plan {
    /// What the table would write, for items that are not as they should be.
    #[must_use]
    pub fn of(case: &Case<'_>, root: &Path) -> Self {
        let mut plan = Self::default();
        for item in table() {
            let Some(fix) = item.fix else {
                continue;
            };
            if !matches!(item.judge(case).state, State::Warning | State::Bad) {
                continue;
            }
            for write in fix(case) {
                plan.add(item.id, write, root);
            }
        }
        plan
    }

    fn add(&mut self, item: &str, write: Write, root: &Path) {
        let setting = Setting::new(root, &write.path);
        let reason = match setting.writable() {
            _ if write.value.is_empty() => "no CPU is left for it".to_owned(),
            Err(error) => error.to_string(),
            Ok(old) if setting.alike(&old, &write.value) => return,
            Ok(old) => {
                self.changes.push(Change {
                    item: item.to_owned(),
                    path: write.path,
                    old,
                    new: write.value,
                    outcome: None,
                });
                return;
            }
        };
        self.skipped.push(Skipped {
            item: item.to_owned(),
            path: write.path,
            reason,
        });
    }

    /// Makes the changes. One that the kernel refuses does not stop the others.
    ///
    /// # Errors
    /// [`FixError`]: the record cannot be written, or is there already.
    pub fn apply(self, root: &Path, record: &Path) -> Result<Fixed, FixError> {
        if self.changes.is_empty() {
            return Ok(Fixed {
                record: None,
                changes: self.changes,
                skipped: self.skipped,
            });
        }
        let mut kept = Record::new(self.changes);
        kept.create(record).map_err(FixError::Before)?;
        for change in &mut kept.changes {
            let setting = Setting::new(root, &change.path);
            let made = setting.write(&change.new).and_then(|()| setting.read());
            change.outcome = Some(match made {
                Ok(now) => Made::Written(now),
                Err(error) => Made::Refused(error.to_string()),
            });
        }
        kept.replace(record).map_err(FixError::After)?;
        Ok(Fixed {
            record: Some(record.to_owned()),
            changes: kept.changes,
            skipped: self.skipped,
        })
    }
}

/// Takes back what a record says, the last change first. When all of it is back,
/// the record is removed.
///
/// # Errors
/// [`RecordError`]: the record cannot be read, or is none.
pub fn undo(root: &Path, record: &Path) -> Result<Undone, RecordError> {
    let kept = Record::read(record)?;
    let changes: Vec<_> = kept
        .changes
        .iter()
        .rev()
        .map(|change| Reverted {
            path: change.path.clone(),
            old: change.old.clone(),
            outcome: revert(root, change).unwrap_or_else(|error| Back::Failed(error.to_string())),
        })
        .collect();
    let undone = Undone {
        version: record::VERSION,
        record: record.to_owned(),
        changes,
    };
    if undone.is_complete() {
        Record::remove(record)?;
    }
    Ok(undone)
}

fn revert(root: &Path, change: &Change) -> Result<Back, SettingError> {
    let setting = Setting::new(root, &change.path);
    let now = setting.read()?;
    if setting.alike(&now, &change.old) {
        return Ok(Back::Unchanged);
    }
    let ours = match &change.outcome {
        // Some settings hold less than they were given.
        Some(Made::Written(then)) => then,
        Some(Made::Refused(_)) | None => &change.new,
    };
    if !setting.alike(&now, ours) && !setting.alike(&now, &change.new) {
        return Ok(Back::Foreign(now));
    }
    setting.write(&change.old)?;
    let then = setting.read()?;
    Ok(if setting.alike(&then, &change.old) {
        Back::Restored
    } else {
        Back::Failed(format!("it holds {then:?} now"))
    })
}

impl Undone {
    /// Whether every file holds what it held before.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let mut changes = self.changes.iter();
        changes.all(|change| matches!(change.outcome, Back::Restored | Back::Unchanged))
    }
}

#[cfg(test)]
mod tests;
