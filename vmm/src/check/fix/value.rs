//! A setting: a file of proc or sys that is read and written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::check::facts::{chosen, parse_list, parse_mask};
use crate::spec::HostCpu;

/// No setting is longer.
const MAX_VALUE_BYTES: u64 = 64 << 10;

/// Why a setting was not read or written.
#[derive(Debug, Error)]
pub(super) enum SettingError {
    /// The kernel's reason.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Nobody may write it.
    #[error("this kernel does not let it be changed at run time")]
    ReadOnly,
}

/// A file, and what its values mean.
#[derive(Debug)]
pub(super) struct Setting {
    path: PathBuf,
    form: Form,
}

/// When two values are one.
#[derive(Clone, Copy, Debug)]
enum Form {
    Text,
    CpuList,
    CpuMask,
}

impl Setting {
    pub(super) fn new(root: &Path, path: &str) -> Self {
        let form = match path.rsplit('/').next().unwrap_or_default() {
            "smp_affinity_list" | "watchdog_cpumask" => Form::CpuList,
            "cpumask" | "default_smp_affinity" | "rps_cpus" => Form::CpuMask,
            _ => Form::Text,
        };
        Self {
            path: root.join(path),
            form,
        }
    }

    /// What it holds: of several words, the one that is chosen.
    pub(super) fn read(&self) -> Result<String, SettingError> {
        let mut text = String::new();
        File::open(&self.path)?
            .take(MAX_VALUE_BYTES)
            .read_to_string(&mut text)?;
        let text = text.trim();
        Ok(chosen(text).unwrap_or(text).to_owned())
    }

    /// The same, if it can be written. Root may open any file, but a parameter of
    /// a module without a writer refuses it.
    pub(super) fn writable(&self) -> Result<String, SettingError> {
        let mode = fs::metadata(&self.path)?.permissions().mode();
        if mode & 0o222 == 0 {
            return Err(SettingError::ReadOnly);
        }
        self.read()
    }

    /// The kernel takes a value in one write. The file is never made.
    pub(super) fn write(&self, value: &str) -> Result<(), SettingError> {
        let mut file = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&self.path)?;
        file.write_all(value.as_bytes())?;
        Ok(())
    }

    /// Whether two values mean the same.
    pub(super) fn alike(&self, one: &str, other: &str) -> bool {
        if one == other {
            return true;
        }
        let same = |one: Option<_>, other: Option<_>| one.is_some() && one == other;
        match self.form {
            Form::CpuList => {
                let list = |text| parse_list(text, HostCpu(0));
                same(list(one), list(other))
            }
            Form::CpuMask => same(parse_mask(one), parse_mask(other)),
            Form::Text => matches!(
                (one, other),
                ("Y", "1") | ("1", "Y") | ("N", "0") | ("0", "N")
            ),
        }
    }
}
