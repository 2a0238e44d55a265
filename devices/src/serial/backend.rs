//! Opens what stands behind a serial port.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{self, SetArg};

use super::outlet::Sink;
use super::pump::Input;
use super::terminal::RawTerminal;
use super::{Backend, SerialError};

/// What is held for as long as the port is served.
#[derive(Debug)]
pub(super) enum Place {
    /// Nothing to release.
    Nowhere,
    /// Standard input and output, with the terminal in raw mode if it is one.
    Standard(#[allow(dead_code, reason = "held for its drop")] Option<RawTerminal>),
    /// A pseudo-terminal. The guest's side is held open too, or reading ours
    /// would fail whenever nobody else has it open.
    Pty { path: PathBuf, other_side: File },
    /// A socket file, removed in the end.
    Socket(SocketFile),
}

/// Removes the socket file, as long as it is ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    ours: AtomicBool,
}

impl SocketFile {
    fn new(path: &Path, ours: bool) -> Self {
        Self {
            path: path.to_owned(),
            ours: AtomicBool::new(ours),
        }
    }

    pub(super) fn set_ours(&self, ours: bool) {
        self.ours.store(ours, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !*self.ours.get_mut() {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!("Could not remove {}: {error}", self.path.display());
        }
    }
}

/// An opened back end.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) sink: Sink,
    pub(super) input: Option<Input>,
    pub(super) listener: Option<UnixListener>,
    pub(super) place: Place,
    /// Output may have to wait, so that the device loop is needed for it.
    pub(super) may_stall: bool,
}

impl Opened {
    fn output(sink: Sink) -> Self {
        Self {
            may_stall: matches!(sink, Sink::Stream(_)),
            sink,
            input: None,
            listener: None,
            place: Place::Nowhere,
        }
    }
}

pub(super) fn open(backend: &Backend) -> Result<Opened, SerialError> {
    match backend {
        Backend::Null => Ok(Opened::output(Sink::Null)),
        Backend::File(path) => open_file(path, File::options().truncate(true)),
        Backend::Append(path) => open_file(path, File::options().append(true)),
        Backend::Socket(path) => open_socket(path),
        Backend::Pty => open_pty().map_err(SerialError::Pty),
        Backend::TtyOutput => Ok(Opened {
            place: Place::Standard(None),
            ..Opened::output(open_stdout()?)
        }),
        Backend::Tty => {
            let sink = open_stdout()?;
            let (input, raw) = open_stdin()?;
            Ok(Opened {
                input: Some(input),
                place: Place::Standard(raw),
                ..Opened::output(sink)
            })
        }
    }
}

fn open_file(path: &Path, options: &mut OpenOptions) -> Result<Opened, SerialError> {
    let file = options
        .write(true)
        .create(true)
        .open(path)
        .map_err(|source| SerialError::Open {
            path: path.to_owned(),
            source,
        })?;
    Ok(Opened::output(sink_for(file)))
}

/// A named pipe or a terminal may be given as a file, too.
fn sink_for(file: File) -> Sink {
    match file.metadata() {
        Ok(metadata) if !metadata.is_file() => Sink::Stream(file),
        _ => Sink::File(file),
    }
}

fn open_socket(path: &Path) -> Result<Opened, SerialError> {
    let failed = |source| SerialError::Open {
        path: path.to_owned(),
        source,
    };
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        match UnixStream::connect(path) {
            Ok(_) => {
                return Err(SerialError::SocketInUse {
                    path: path.to_owned(),
                });
            }
            // Its process has ended without removing it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let socket = SocketFile::new(path, true);
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Opened {
        listener: Some(listener),
        place: Place::Socket(socket),
        ..Opened::output(Sink::Nobody)
    })
}

fn set_nonblocking(file: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// What another instance handed over, as [`SerialHandle::hand_over`] gave it but for
/// the note; the socket's file stays theirs.
///
/// [`SerialHandle::hand_over`]: super::SerialHandle::hand_over
pub(super) fn take_over(backend: &Backend, files: Vec<OwnedFd>) -> Result<Opened, SerialError> {
    let came = files.len();
    for file in &files {
        // Ours are; another's would hold up the device loop.
        set_nonblocking(file).map_err(SerialError::TakeOver)?;
    }
    let mut files = files.into_iter();
    let opened = match (backend, files.next(), files.next(), came) {
        (Backend::Socket(path), Some(listener), client, 1 | 2) => {
            let place = Place::Socket(SocketFile::new(path, false));
            let streams = client.map(|client| {
                let reading = client.try_clone()?;
                Ok((File::from(reading), File::from(client)))
            });
            let streams = streams.transpose().map_err(SerialError::TakeOver)?;
            let (input, sink) = match streams {
                Some((reading, writing)) => (Some(Input::plain(reading)), Sink::Stream(writing)),
                None => (None, Sink::Nobody),
            };
            Opened {
                input,
                listener: Some(UnixListener::from(listener)),
                place,
                ..Opened::output(sink)
            }
        }
        (Backend::Pty, Some(master), Some(other_side), 2) => {
            let other_side = File::from(other_side);
            let link = format!("/proc/self/fd/{}", other_side.as_raw_fd());
            let path = std::fs::read_link(link).map_err(SerialError::TakeOver)?;
            let reading = master.try_clone().map_err(SerialError::TakeOver)?;
            Opened {
                input: Some(Input::plain(File::from(reading))),
                place: Place::Pty { path, other_side },
                ..Opened::output(Sink::Stream(File::from(master)))
            }
        }
        _ => return Err(SerialError::Handed { came }),
    };
    Ok(opened)
}

fn open_pty() -> io::Result<Opened> {
    let master =
        posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = PathBuf::from(ptsname_r(&master)?);
    let other_side = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(&path)?;
    // Without raw mode the terminal would echo the guest's output back to it.
    let mut settings = termios::tcgetattr(&other_side)?;
    termios::cfmakeraw(&mut settings);
    termios::tcsetattr(&other_side, SetArg::TCSANOW, &settings)?;
    let ours = master.as_fd().try_clone_to_owned()?;
    Ok(Opened {
        input: Some(Input::plain(File::from(ours.try_clone()?))),
        place: Place::Pty { path, other_side },
        ..Opened::output(Sink::Stream(File::from(ours)))
    })
}

/// A descriptor of our own for `fd`, which does not block where that is
/// possible. The flag belongs to the open file, which we share with the shell
/// that started us: so what can be opened anew, is.
fn unblocked(fd: BorrowedFd<'_>, for_writing: bool) -> io::Result<OwnedFd> {
    let metadata = File::from(fd.try_clone_to_owned()?).metadata()?;
    let kind = metadata.file_type();
    if kind.is_fifo() || kind.is_char_device() {
        let reopened = OpenOptions::new()
            .read(!for_writing)
            .write(for_writing)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        if let Ok(file) = reopened {
            return Ok(file.into());
        }
    }
    fd.try_clone_to_owned()
}

fn open_stdout() -> Result<Sink, SerialError> {
    let fd = unblocked(io::stdout().as_fd(), true).map_err(|source| SerialError::Standard {
        stream: "standard output",
        source,
    })?;
    Ok(sink_for(File::from(fd)))
}

fn open_stdin() -> Result<(Input, Option<RawTerminal>), SerialError> {
    let failed = |source| SerialError::Standard {
        stream: "standard input",
        source,
    };
    let stdin = io::stdin();
    let file = File::from(unblocked(stdin.as_fd(), false).map_err(failed)?);
    if stdin.is_terminal() {
        let raw = RawTerminal::enter(stdin.as_fd()).map_err(failed)?;
        Ok((Input::terminal(file), Some(raw)))
    } else {
        Ok((Input::plain(file), None))
    }
}
