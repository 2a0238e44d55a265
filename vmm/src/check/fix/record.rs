//! What was changed, in a file: the way back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Change;

/// The version of the file.
pub(super) const VERSION: u32 = 1;

/// More than a host with thousands of interrupts makes.
pub const MAX_RECORD_BYTES: u64 = 16 << 20;

/// What is in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The version, 1.
    pub version: u32,
    /// The changes, in the order in which they were made.
    pub changes: Vec<Change>,
}

/// Why there is no record.
#[derive(Debug, Error)]
pub enum RecordError {
    /// It would be lost.
    #[error(
        "the record {} is there already: undo it first (godwit check --undo {}), or name another \
         with --record",
        path.display(), path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file system's reason.
    #[error("cannot {attempt} the record {}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is longer than any record.
    #[error("{} is no record: it has more than {MAX_RECORD_BYTES} bytes", path.display())]
    Long {
        /// The file.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{} is no record of godwit check --fix", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// It is a newer one.
    #[error("the record {} has version {version}; this godwit knows {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// It leads elsewhere.
    #[error("the record {} would write to {named:?}, which is no setting", path.display())]
    Outside {
        /// The file.
        path: PathBuf,
        /// What it would write to.
        named: String,
    },
}

impl Record {
    pub(super) fn new(changes: Vec<Change>) -> Self {
        Self {
            version: VERSION,
            changes,
        }
    }

    /// Writes it to a file of its own, which must not be there.
    pub(super) fn create(&self, path: &Path) -> Result<(), RecordError> {
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            fs::create_dir_all(folder).map_err(failed("make the folder of", path))?;
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RecordError::Exists {
                    path: path.to_owned(),
                });
            }
            file => file.map_err(failed("make", path))?,
        };
        self.write(file).map_err(failed("write", path))?;
        sync_folder(path).map_err(failed("write", path))
    }

    /// Puts it in the place of an earlier one, which is there until then.
    pub(super) fn replace(&self, path: &Path) -> Result<(), RecordError> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .map_err(failed("make", &beside))?;
        self.write(file).map_err(failed("write", &beside))?;
        fs::rename(&beside, path).map_err(failed("replace", path))?;
        sync_folder(path).map_err(failed("write", path))
    }

    fn write(&self, mut file: File) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_all()
    }

    /// Reads one; whoever wrote it, it leads to nothing but settings.
    ///
    /// # Errors
    /// [`RecordError`]: it is not there, or none.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_RECORD_BYTES + 1).read_to_end(&mut bytes))
            .map_err(failed("read", path))?;
        let path = path.to_owned();
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_RECORD_BYTES) {
            return Err(RecordError::Long { path });
        }
        let record: Self = match serde_json::from_slice(&bytes) {
            Ok(record) => record,
            Err(source) => return Err(RecordError::Document { path, source }),
        };
        if record.version != VERSION {
            let version = record.version;
            return Err(RecordError::Version { path, version });
        }
        if let Some(change) = record
            .changes
            .iter()
            .find(|change| !is_setting(&change.path))
        {
            let named = change.path.clone();
            return Err(RecordError::Outside { path, named });
        }
        Ok(record)
    }

    pub(super) fn remove(path: &Path) -> Result<(), RecordError> {
        fs::remove_file(path).map_err(failed("remove", path))
    }
}

/// Below `proc` or `sys`, and not out of it again.
fn is_setting(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    let below =
        matches!(parts.next(), Some(Component::Normal(top)) if top == "proc" || top == "sys");
    below && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError::Io {
        attempt,
        path,
        source,
    }
}
