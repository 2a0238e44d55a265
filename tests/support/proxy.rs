//! A Unix socket between source and destination that knows frames, and does
//! something at the first one of a kind.
//!
//! ```text
//!  0      4     5            8          12            16        28
//!  | magic | kind | flags, 0 | body len | payload len | checksums | body | payload
//! ```

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use super::host::wait_until;
use super::process::PATIENCE;

/// Kinds of frames, as `godwit_migration::wire::Kind` numbers them.
pub const DESCRIPTION: u8 = 3;
pub const VERDICT: u8 = 4;
pub const PAGES: u8 = 6;
pub const STATE: u8 = 9;
pub const READY: u8 = 10;
pub const HANDOVER: u8 = 11;
pub const RUNNING: u8 = 12;

/// What happens to the first frame of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It waits until [`Proxy::release`].
    Hold,
    /// Its connection ends in the middle of it.
    Cut,
    /// Its last byte is changed.
    Flip,
    /// It and all that follows go nowhere, and nobody is told.
    Swallow,
}

/// Passes on what comes to `path`.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    kind: u8,
    act: Act,
    met: AtomicBool,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Proxy {
    /// Listens at `path`, passes on to `to`, and does `act` at the first frame
    /// of `kind`.
    pub fn start(path: &Path, to: &Path, kind: u8, act: Act) -> Self {
        let door = UnixListener::bind(path).expect("a socket for the proxy");
        let shared = Arc::new(Shared {
            kind,
            act,
            met: AtomicBool::new(false),
            open: Mutex::new(false),
            opened: Condvar::new(),
        });
        let (kept, to) = (Arc::clone(&shared), to.to_owned());
        // It ends with the tests: it holds nothing that outlives them.
        thread::spawn(move || {
            for near in door.incoming() {
                let (Ok(near), Ok(far)) = (near, UnixStream::connect(&to)) else {
                    return;
                };
                for (from, into) in [(&near, &far), (&far, &near)] {
                    let (Ok(from), Ok(into)) = (from.try_clone(), into.try_clone()) else {
                        return;
                    };
                    let shared = Arc::clone(&kept);
                    thread::spawn(move || {
                        let _ = shared.pass(&from, &into);
                        let _ = from.shutdown(Shutdown::Both);
                        let _ = into.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { shared }
    }

    /// Waits until the frame has come.
    #[track_caller]
    pub fn wait(&self) {
        wait_until("the frame comes", || self.shared.met.load(Ordering::SeqCst));
    }

    /// Lets the held frame go on.
    pub fn release(&self) {
        let mut open = self
            .shared
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *open = true;
        self.shared.opened.notify_all();
    }
}

impl Shared {
    fn pass(&self, mut from: &UnixStream, mut into: &UnixStream) -> io::Result<()> {
        loop {
            let mut header = [0; 28];
            from.read_exact(&mut header)?;
            let length = |at: usize| {
                let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
                u32::from_le_bytes(bytes) as usize
            };
            let mut frame = vec![0; header.len() + length(8) + length(12)];
            frame[..28].copy_from_slice(&header);
            from.read_exact(&mut frame[28..])?;
            if header[4] == self.kind && !self.met.swap(true, Ordering::SeqCst) {
                match self.act {
                    Act::Hold => {
                        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                        let held = self
                            .opened
                            .wait_timeout_while(open, PATIENCE, |open| !*open);
                        drop(held);
                    }
                    Act::Cut => return into.write_all(&frame[..frame.len() / 2]),
                    Act::Flip => {
                        if let Some(last) = frame.last_mut() {
                            *last ^= 0x10;
                        }
                    }
                    Act::Swallow => {
                        io::copy(&mut from, &mut io::sink())?;
                        return Ok(());
                    }
                }
            }
            into.write_all(&frame)?;
        }
    }
}
