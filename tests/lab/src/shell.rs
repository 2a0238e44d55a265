//! `cargo lab shell CONFIG`: a terminal on a guest.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, SetArg, Termios};

use crate::build::{self, BuildError};
use crate::doctor::{MachineKind, Runner};
use crate::image::{Image, ImageError};
use crate::outer::client::AgentError;
use crate::outer::protocol::{Ending, Reply};
use crate::outer::{Outer, OuterError, Shape, exec};
use crate::workspace;

/// Why there is no terminal.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// `godwit` does not build.
    #[error("a terminal on a guest needs godwit")]
    Build(#[from] BuildError),
    /// There is no guest image.
    #[error("a terminal on a guest needs the guest image")]
    Image(#[from] ImageError),
    /// There is no outer machine.
    #[error("a terminal on a guest needs the outer machine")]
    Outer(#[from] OuterError),
    /// The outer machine was lost.
    #[error("the terminal was cut off")]
    Agent(#[from] AgentError),
    /// A file or a program could not be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or program.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// `godwit` ended with a failure; it said why on the terminal.
    #[error("godwit failed: {0}")]
    Failed(Ending),
}

/// Boots the guest of `config` with its serial port on this terminal, where a Linux guest can run.
///
/// # Errors
/// See [`ShellError`].
pub fn run(config: &Path) -> Result<(), ShellError> {
    let config = config.canonicalize().map_err(|source| ShellError::Io {
        path: config.to_owned(),
        source,
    })?;
    Image::build()?;
    let godwit = build::godwit()?;
    match MachineKind::detect().linux_runner() {
        Runner::Direct => {
            let mut command = Command::new(&godwit);
            command
                .arg("run")
                .arg(config)
                .current_dir(workspace::root());
            let status = command.status().map_err(|source| ShellError::Io {
                path: godwit,
                source,
            })?;
            match status.code() {
                Some(0) => Ok(()),
                code => Err(ShellError::Failed(Ending::Exited(code.unwrap_or(255)))),
            }
        }
        Runner::Lab => in_lab(&godwit, &config),
    }
}

/// Gives the taps that the config names to the guest, then the terminal.
fn in_lab(godwit: &Path, config: &Path) -> Result<(), ShellError> {
    let outer = Outer::start(Shape::default())?;
    for tap in taps(config)? {
        let script =
            format!("ip tuntap add dev '{tap}' mode tap vnet_hdr && ip link set '{tap}' up");
        let made = outer.shell(&script, Duration::from_secs(30))?;
        if !made.ending.success() {
            return Err(ShellError::Failed(made.ending));
        }
    }
    let arguments =
        [godwit, Path::new("run"), config].map(|word| word.to_string_lossy().into_owned());
    // A person may stay as long as they like.
    let mut exec = exec(arguments.to_vec(), Duration::from_secs(7 * 24 * 3600));
    exec.terminal = Some(size());
    exec.environment.push((
        "TERM".to_owned(),
        std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned()),
    ));
    let _raw = Raw::enter();
    let typed = typed();
    let mut job = outer.client().start(exec)?;
    loop {
        while let Ok(keys) = typed.try_recv() {
            job.input(&keys)?;
        }
        match job.next(Duration::from_millis(10))? {
            Some((Reply::Output(_), data)) => {
                let mut screen = io::stdout().lock();
                let _ = screen.write_all(&data).and_then(|()| screen.flush());
            }
            Some((Reply::Ended(ending), _)) if ending.success() => return Ok(()),
            Some((Reply::Ended(ending), _)) => return Err(ShellError::Failed(ending)),
            Some((Reply::Ready { .. }, _)) | None => {}
        }
    }
}

/// Names of taps in a config; what is wrong with it `godwit` itself says better.
fn taps(config: &Path) -> Result<Vec<String>, ShellError> {
    let text = std::fs::read(config).map_err(|source| ShellError::Io {
        path: config.to_owned(),
        source,
    })?;
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let nets = json
        .get("net")
        .and_then(|nets| nets.as_array())
        .into_iter()
        .flatten();
    let taps = nets.filter_map(|net| net.get("tap")?.as_str());
    // Only what an interface can be called: the name goes through a shell.
    let plain = |name: &&str| {
        name.chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    Ok(taps.filter(plain).map(str::to_owned).collect())
}

/// Pieces of what is typed, read by a thread of its own; the end of input is an empty piece.
fn typed() -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut stdin = io::stdin();
        let mut piece = [0; 1024];
        loop {
            let mut polled = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut polled, PollTimeout::NONE);
            let length = stdin.read(&mut piece).unwrap_or(0);
            let keys = piece.get(..length).unwrap_or_default().to_vec();
            // A terminal that is closed gives nothing for ever: the guest then runs on alone.
            if length == 0 || sender.send(keys).is_err() {
                return;
            }
        }
    });
    receiver
}

fn size() -> (u16, u16) {
    // SAFETY: all-zero bytes are a valid winsize, and the ioctl writes one.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        libc::ioctl(1, libc::TIOCGWINSZ, &raw mut size);
        size
    };
    if size.ws_row == 0 || size.ws_col == 0 {
        (24, 80)
    } else {
        (size.ws_row, size.ws_col)
    }
}

/// The terminal without its own treatment of keys; dropped, it is as before.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Self {
        let stdin = io::stdin();
        let Ok(before) = termios::tcgetattr(&stdin) else {
            return Self(None);
        };
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        let _ = termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw);
        Self(Some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}
