//! A file system whose reads can be held up, or fail: what storage does that does not answer.
//!
//! It shows the files of a folder, and is served by this process through `/dev/fuse`
//! (linux/fuse.h, protocol 7.31). It is mounted for the thread that opens it and for what that
//! thread starts, which [`apart`](super::namespace::apart) must have given mounts of its own.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// The folder's own node; those of its files follow.
const ROOT: u64 = 1;
/// Past the page cache: each read comes here, as it was asked for.
const DIRECT_IO: u32 = 1;
const HEADER: usize = 40;

/// What becomes of the reads of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Pass,
    Hold,
    /// With `EIO`.
    Fail,
}

/// See the module.
pub struct Gate {
    served: Arc<Served>,
    place: PathBuf,
}

struct Served {
    device: File,
    files: Vec<(String, File)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rules: BTreeMap<String, Rule>,
    held: Vec<Request>,
}

#[derive(Clone)]
struct Request {
    opcode: u32,
    unique: u64,
    node: u64,
    body: Vec<u8>,
}

impl Gate {
    /// Shows the files of `folder` at `place`, a folder too.
    pub fn open(folder: &Path, place: &Path) -> Self {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device.expect("needs /dev/fuse");
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let target = CString::new(place.as_os_str().as_bytes()).expect("a path");
        let options = CString::new(options).expect("no zero in it");
        // SAFETY: all strings end in zeros and live through the call.
        let rc = unsafe {
            libc::mount(
                c"gate".as_ptr(),
                target.as_ptr(),
                c"fuse".as_ptr(),
                libc::MS_NOSUID | libc::MS_NODEV | libc::MS_RDONLY,
                options.as_ptr().cast(),
            )
        };
        assert_eq!(rc, 0, "mounting: {}", std::io::Error::last_os_error());
        let files = std::fs::read_dir(folder).expect("the folder").map(|entry| {
            let entry = entry.expect("a file of it");
            let file = File::open(entry.path()).expect("opening it");
            (entry.file_name().to_string_lossy().into_owned(), file)
        });
        let served = Arc::new(Served {
            device,
            files: files.collect(),
            state: Mutex::default(),
        });
        let server = Arc::clone(&served);
        thread::spawn(move || server.serve());
        Self {
            served,
            place: place.to_owned(),
        }
    }

    /// From now on, and for reads that are held up.
    pub fn rule(&self, name: &str, rule: Rule) {
        let held = {
            let mut state = self.served.state();
            state.rules.insert(name.to_owned(), rule);
            std::mem::take(&mut state.held)
        };
        for request in held {
            self.served.read(request);
        }
    }

    /// How many reads are held up.
    pub fn held(&self) -> usize {
        self.served.state().held.len()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let place = CString::new(self.place.as_os_str().as_bytes()).expect("a path");
        // SAFETY: the string ends in a zero and lives through the call. The mount
        // goes with its last user, and the server ends with it.
        unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
    }
}

impl Served {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut buffer = vec![0; 1 << 18];
        while let Ok(length @ HEADER..) = (&self.device).read(&mut buffer) {
            let request = Request {
                opcode: word(&buffer, 4),
                unique: long(&buffer, 8),
                node: long(&buffer, 16),
                body: buffer[HEADER..length].to_vec(),
            };
            self.answer(request);
        }
    }

    fn answer(&self, request: Request) {
        match request.opcode {
            FORGET | BATCH_FORGET | INTERRUPT => {}
            INIT => {
                let mut out = Vec::new();
                // Version; read-ahead, flags; background; largest write; the rest.
                words(&mut out, &[7, 31, 1 << 17, 0, 0, 1 << 17]);
                out.resize(64, 0);
                self.reply(&request, Ok(&out));
            }
            LOOKUP => {
                let name = request.body.strip_suffix(b"\0").unwrap_or(&request.body);
                let found = self.files.iter().position(|(n, _)| n.as_bytes() == name);
                match found {
                    Some(index) => {
                        let node = ROOT + 1 + index as u64;
                        let mut out = Vec::new();
                        longs(&mut out, &[node, 0, 3600, 3600, 0]);
                        out.extend(self.attributes(node));
                        self.reply(&request, Ok(&out));
                    }
                    None => self.reply(&request, Err(libc::ENOENT)),
                }
            }
            GETATTR => {
                let mut out = Vec::new();
                longs(&mut out, &[3600, 0]);
                out.extend(self.attributes(request.node));
                self.reply(&request, Ok(&out));
            }
            OPEN => {
                let mut out = vec![0; 8];
                words(&mut out, &[DIRECT_IO, 0]);
                self.reply(&request, Ok(&out));
            }
            READ => self.read(request),
            RELEASE | FLUSH => self.reply(&request, Ok(&[])),
            _ => self.reply(&request, Err(libc::ENOSYS)),
        }
    }

    fn read(&self, request: Request) {
        let index = usize::try_from(request.node - ROOT - 1).expect("a small number");
        let Some((name, file)) = self.files.get(index) else {
            return self.reply(&request, Err(libc::EBADF));
        };
        let rule = {
            let mut state = self.state();
            let rule = state.rules.get(name).copied().unwrap_or(Rule::Pass);
            if rule == Rule::Hold {
                state.held.push(request.clone());
            }
            rule
        };
        match rule {
            Rule::Hold => {}
            Rule::Fail => self.reply(&request, Err(libc::EIO)),
            Rule::Pass => {
                let size = usize::try_from(word(&request.body, 16)).expect("a size");
                let mut bytes = vec![0; size];
                let got = file.read_at(&mut bytes, long(&request.body, 8));
                self.reply(&request, Ok(&bytes[..got.expect("reading")]));
            }
        }
    }

    /// `struct fuse_attr`.
    fn attributes(&self, node: u64) -> Vec<u8> {
        let index = usize::try_from(node.wrapping_sub(ROOT + 1)).unwrap_or(usize::MAX);
        let file = self.files.get(index).map(|(_, file)| file);
        let size = file.map_or(0, |file| file.metadata().expect("its size").len());
        let mode = if file.is_some() { 0o100_444 } else { 0o040_555 };
        let mut out = Vec::new();
        longs(&mut out, &[node, size, size.div_ceil(512), 0, 0, 0]);
        words(&mut out, &[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]);
        out
    }

    fn reply(&self, request: &Request, result: Result<&[u8], i32>) {
        let body = result.unwrap_or_default();
        let error = result.err().map_or(0, |errno| -errno);
        let mut out = Vec::new();
        let length = u32::try_from(16 + body.len()).expect("a short reply");
        words(&mut out, &[length, error.cast_unsigned()]);
        longs(&mut out, &[request.unique]);
        out.extend(body);
        // Who asked may be gone.
        let _ = (&self.device).write(&out);
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn words(out: &mut Vec<u8>, words: &[u32]) {
    out.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
}

fn longs(out: &mut Vec<u8>, longs: &[u64]) {
    out.extend(longs.iter().flat_map(|long| long.to_ne_bytes()));
}
