//! A wire that can be cut, damaged, slowed and recorded at any byte.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::address::Address;

/// What each connection's source has sent.
type Records = Arc<Mutex<Vec<Vec<u8>>>>;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the source.
    Forth,
    /// From the destination.
    Back,
}

/// What happens to one direction of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends after so many bytes.
    Cut(usize),
    /// After so many bytes nothing passes any more, and nobody is told.
    Swallow(usize),
    /// This byte is changed.
    Flip(usize),
    /// Each piece is held for a while.
    Slow(Duration),
}

/// A Unix socket that passes what it is given on to another.
#[derive(Debug)]
pub struct Proxy {
    address: Address,
    records: Records,
    _directory: Directory,
}

/// A directory of its own, removed in the end.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// A new one.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("godwit-migration-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    /// The address of a socket in it.
    #[must_use]
    pub fn socket(&self, name: &str) -> Address {
        Address::Unix(self.0.join(name))
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Proxy {
    /// Passes connections on to `to`, with `fault` on the connection of that
    /// number (0 is control) and direction.
    ///
    /// # Panics
    /// `to` is no Unix socket, or there are no descriptors left.
    #[must_use]
    pub fn start(to: &Address, fault: Option<(usize, Way, Fault)>) -> Self {
        let Address::Unix(to) = to.clone() else {
            panic!("the proxy speaks to Unix sockets only");
        };
        let directory = Directory::new();
        let address = directory.socket("proxy");
        let Address::Unix(path) = &address else {
            unreachable!("a directory gives Unix sockets")
        };
        let door = UnixListener::bind(path).expect("a socket");
        let records = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
        let kept = Arc::clone(&records);
        // It ends with the process: a test's proxy has nothing to give back.
        thread::spawn(move || {
            for (number, near) in door.incoming().enumerate() {
                let (Ok(near), Ok(far)) = (near, UnixStream::connect(&to)) else {
                    return;
                };
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(Vec::new());
                for way in [Way::Forth, Way::Back] {
                    let fault = fault
                        .filter(|(n, w, _)| *n == number && *w == way)
                        .map(|(.., fault)| fault);
                    let (Ok(near), Ok(far)) = (near.try_clone(), far.try_clone()) else {
                        return;
                    };
                    let (from, into) = match way {
                        Way::Forth => (near, far),
                        Way::Back => (far, near),
                    };
                    let record = (way == Way::Forth).then(|| (Arc::clone(&kept), number));
                    thread::spawn(move || pump(&from, &into, fault, record));
                }
            }
        });
        Self {
            address,
            records,
            _directory: directory,
        }
    }

    /// Where to connect instead.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What the source has sent, connection by connection.
    #[must_use]
    pub fn records(&self) -> Vec<Vec<u8>> {
        self.records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn pump(
    mut from: &UnixStream,
    mut into: &UnixStream,
    fault: Option<Fault>,
    record: Option<(Records, usize)>,
) {
    let mut buffer = [0; 64 << 10];
    let mut passed = 0;
    'all: while let Ok(count) = from.read(&mut buffer) {
        let Some(piece) = buffer.get_mut(..count).filter(|p| !p.is_empty()) else {
            break;
        };
        if let Some((records, number)) = &record {
            let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(record) = records.get_mut(*number) {
                record.extend_from_slice(piece);
            }
        }
        let mut keep = count;
        match fault {
            Some(Fault::Cut(at)) => keep = count.min(at.saturating_sub(passed)),
            Some(Fault::Swallow(at)) => keep = count.min(at.saturating_sub(passed)),
            Some(Fault::Flip(at)) if at >= passed => {
                if let Some(byte) = piece.get_mut(at - passed) {
                    *byte ^= 0x20;
                }
            }
            Some(Fault::Slow(time)) => thread::sleep(time),
            _ => {}
        }
        passed += count;
        if into
            .write_all(piece.get(..keep).unwrap_or_default())
            .is_err()
        {
            break 'all;
        }
        if keep < count && matches!(fault, Some(Fault::Cut(_))) {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = into.shutdown(std::net::Shutdown::Both);
}
