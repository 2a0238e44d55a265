//! The serial port and the console.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use godwit_api::config::{CharacterConfig, CharacterMode};

use super::error::Problems;
use super::files;

/// Longest path of a Unix socket: `sun_path` less the ending zero (unix(7)).
const MAX_SOCKET_BYTES: usize = 107;

/// Where the bytes of a serial port or console go to and come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CharacterSpec {
    /// There is no device.
    Off,
    /// There is a device; its bytes go nowhere.
    Null,
    /// The terminal of the process, by standard input and output.
    Tty,
    /// A new pseudo-terminal.
    Pty,
    /// A file, written only.
    File(PathBuf),
    /// A Unix socket that we listen on.
    Socket(PathBuf),
}

/// The 16550 at 0x3f8.
pub type SerialSpec = CharacterSpec;

/// The virtio console.
pub type ConsoleSpec = CharacterSpec;

pub(super) fn build(
    serial: &CharacterConfig,
    console: &CharacterConfig,
    problems: &mut Problems,
) -> (Option<SerialSpec>, Option<ConsoleSpec>) {
    let both_on_terminal = serial.mode == CharacterMode::Tty && console.mode == CharacterMode::Tty;
    if both_on_terminal {
        problems.invalid(
            "console.mode",
            "\"Tty\", but the serial port is on the terminal already; give one of them another mode",
        );
    }
    if console.mode != CharacterMode::Off {
        problems.unsupported(
            "console.mode",
            "a virtio console is not supported yet; set it to \"Off\" and use \"serial\"",
        );
    }
    (
        device("serial", serial, problems),
        device("console", console, problems),
    )
}

fn device(name: &str, config: &CharacterConfig, problems: &mut Problems) -> Option<CharacterSpec> {
    let mode = config.mode;
    // A Pty's path is what an earlier machine filled in.
    if config.file.is_some() && !matches!(mode, CharacterMode::File | CharacterMode::Pty) {
        problems.invalid(
            format!("{name}.file"),
            format!("set, but the mode is {mode:?}; leave it out, or set the mode to \"File\""),
        );
    }
    if config.socket.is_some() && mode != CharacterMode::Socket {
        problems.invalid(
            format!("{name}.socket"),
            format!("set, but the mode is {mode:?}; leave it out, or set the mode to \"Socket\""),
        );
    }
    Some(match mode {
        CharacterMode::Off => CharacterSpec::Off,
        CharacterMode::Null => CharacterSpec::Null,
        CharacterMode::Tty => CharacterSpec::Tty,
        CharacterMode::Pty => CharacterSpec::Pty,
        CharacterMode::File => {
            let field = format!("{name}.file");
            let path = named(&field, "File", config.file.as_deref(), problems)?;
            CharacterSpec::File(files::to_be_made(&field, path, problems)?)
        }
        CharacterMode::Socket => {
            let field = format!("{name}.socket");
            let path = named(&field, "Socket", config.socket.as_deref(), problems)?;
            let length = path.as_os_str().as_bytes().len();
            if length > MAX_SOCKET_BYTES {
                problems.invalid(
                    field,
                    format!(
                        "{length} bytes are too long for a socket's path; \
                         the kernel takes {MAX_SOCKET_BYTES}"
                    ),
                );
                return None;
            }
            CharacterSpec::Socket(files::to_be_made(&field, path, problems)?)
        }
    })
}

fn named<'a>(
    field: &str,
    mode: &str,
    path: Option<&'a Path>,
    problems: &mut Problems,
) -> Option<&'a Path> {
    if path.is_none() {
        problems.invalid(field, format!("missing; mode {mode:?} needs a path"));
    }
    path
}
