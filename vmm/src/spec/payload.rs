//! What is booted.

use std::path::PathBuf;

use godwit_api::config::PayloadConfig;

use super::error::Problems;
use super::{Origin, files};

/// Longest command line in bytes: Linux keeps 2048 with the ending zero
/// (`COMMAND_LINE_SIZE` of x86).
const MAX_CMDLINE_BYTES: usize = 2047;

/// What is booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadSpec {
    /// A bzImage or an ELF image.
    pub kernel: PathBuf,
    /// The initial RAM file system.
    pub initramfs: Option<PathBuf>,
    /// The kernel's command line: printable ASCII, at most 2047 bytes; may be
    /// empty.
    pub cmdline: String,
}

pub(super) fn build(
    config: &PayloadConfig,
    origin: Origin,
    problems: &mut Problems,
) -> Option<PayloadSpec> {
    let check = |field: &str, path: &PathBuf, problems: &mut Problems| match origin {
        Origin::Boot => files::regular(field, path, problems),
        Origin::Incoming => Some(path.clone()),
    };
    let kernel = match &config.kernel {
        Some(path) => check("payload.kernel", path, problems),
        // A guest with firmware has been told already.
        None if config.firmware.is_some() || config.igvm.is_some() => None,
        None => {
            problems.invalid(
                "payload.kernel",
                "missing; name a bzImage or an ELF image to boot",
            );
            None
        }
    };
    let initramfs = match &config.initramfs {
        Some(path) => check("payload.initramfs", path, problems),
        None => None,
    };
    let cmdline = config.cmdline.clone().unwrap_or_default();
    check_cmdline(&cmdline, problems);
    Some(PayloadSpec {
        kernel: kernel?,
        initramfs,
        cmdline,
    })
}

fn check_cmdline(cmdline: &str, problems: &mut Problems) {
    let field = "payload.cmdline";
    if let Some((at, other)) = cmdline
        .char_indices()
        .find(|(_, c)| !matches!(c, ' '..='~'))
    {
        problems.invalid(
            field,
            format!("{other:?} at byte {at} is not printable ASCII"),
        );
    }
    if cmdline.len() > MAX_CMDLINE_BYTES {
        problems.invalid(
            field,
            format!(
                "{} bytes are too long; Linux keeps {MAX_CMDLINE_BYTES}",
                cmdline.len()
            ),
        );
    }
}
