use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::device_loop::DeviceLoop;

mod handover;
mod tty;

const DATA: u64 = 0;
const IER: u64 = 1;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;

#[derive(Debug, Default)]
struct CountedIrq(AtomicUsize);

impl IrqLine for CountedIrq {
    fn trigger(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

struct Rig {
    serial: Arc<Serial>,
    handle: Option<SerialHandle>,
    irq: Arc<CountedIrq>,
    escapes: mpsc::Receiver<Escape>,
    // Last, so that the handle can still call it when it is dropped.
    device_loop: DeviceLoop,
}

impl Rig {
    fn new(backend: &Backend) -> Self {
        Self::from_state(backend, SerialV1::default()).unwrap()
    }

    fn from_state(backend: &Backend, state: SerialV1) -> Result<Self, SerialError> {
        Self::made(backend, Vec::new(), state)
    }

    fn made(backend: &Backend, handed: Vec<OwnedFd>, state: SerialV1) -> Result<Self, SerialError> {
        let device_loop = DeviceLoop::spawn("serial-test", || ()).unwrap();
        let irq = Arc::new(CountedIrq::default());
        let (sender, escapes) = mpsc::channel();
        let (serial, handle) = Serial::new(SerialSetup {
            backend,
            handed,
            irq: Arc::clone(&irq) as Arc<dyn IrqLine>,
            device_loop: &device_loop.handle(),
            escape: Box::new(move |escape| sender.send(escape).unwrap()),
            state,
        })?;
        Ok(Self {
            serial,
            handle: Some(handle),
            irq,
            escapes,
            device_loop,
        })
    }

    fn say(&self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(self.serial.write(DATA, &[*byte]), Action::Continue);
        }
    }

    fn set(&self, register: u64, value: u8) {
        assert_eq!(self.serial.write(register, &[value]), Action::Continue);
    }

    fn register(&self, offset: u64) -> u8 {
        let mut value = [0];
        self.serial.read(offset, &mut value);
        value[0]
    }

    /// What a guest that polls the line status reads until it has `count` bytes.
    fn hear(&self, count: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        eventually("input", || {
            while self.register(LSR) & 1 != 0 {
                heard.push(self.register(DATA));
            }
            heard.len() >= count
        });
        heard
    }

    fn stop(&mut self) {
        self.handle.take().unwrap().stop();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.handle.take();
        let _ = &self.device_loop;
    }
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A directory of its own for each test, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("godwit-serial-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pty(path: &Path) -> fs::File {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

#[test]
fn a_file_holds_what_the_guest_wrote_as_soon_as_it_wrote_it() {
    let scratch = Scratch::new("file");
    let path = scratch.join("console.log");
    fs::write(&path, "of an earlier run").unwrap();
    let rig = Rig::new(&Backend::File(path.clone()));
    assert_eq!(fs::read(&path).unwrap(), b"", "the file is emptied");
    rig.say(b"a");
    assert_eq!(fs::read(&path).unwrap(), b"a");
    rig.say(b"bc\r\n");
    assert_eq!(fs::read(&path).unwrap(), b"abc\r\n");
    assert_eq!(rig.serial.counters().sent, 5);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let backend = Backend::File("/nonexistent/console.log".into());
    let error = Rig::from_state(&backend, SerialV1::default())
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "Could not open /nonexistent/console.log for the serial port"
    );
}

#[test]
fn a_pty_carries_both_directions() {
    let rig = Rig::new(&Backend::Pty);
    let path = rig.handle.as_ref().unwrap().pty_path().unwrap();
    let mut terminal = pty(path);
    rig.say(b"login: \r\n");
    let mut prompt = [0; 9];
    terminal.read_exact(&mut prompt).unwrap();
    assert_eq!(&prompt, b"login: \r\n");
    rig.set(IER, 1);
    terminal.write_all(b"root\n").unwrap();
    assert_eq!(rig.hear(5), b"root\n");
    assert!(rig.irq.0.load(Ordering::SeqCst) > 0, "input interrupts");
    assert_eq!(rig.serial.counters().received, 5);
}

#[test]
fn a_pty_that_nobody_reads_neither_blocks_the_guest_nor_grows() {
    let rig = Rig::new(&Backend::Pty);
    let total = 2 * PENDING_LIMIT;
    let started = Instant::now();
    for i in 0..total {
        rig.say(&[u8::try_from(i % 251).unwrap()]);
    }
    assert!(started.elapsed() < Duration::from_secs(20));
    let counters = rig.serial.counters();
    let kept = total as u64 - counters.sent - counters.dropped;
    assert!(counters.dropped > 0);
    assert!(kept <= PENDING_LIMIT as u64);
    // Who comes late sees the oldest that the terminal holds, then the latest.
    let mut terminal = pty(rig.handle.as_ref().unwrap().pty_path().unwrap());
    let mut seen = vec![0; total - usize::try_from(counters.dropped).unwrap()];
    terminal.read_exact(&mut seen).unwrap();
    assert_eq!(seen[0], 0);
    assert_eq!(usize::from(*seen.last().unwrap()), (total - 1) % 251);
    rig.say(b"!");
    terminal.read_exact(&mut seen[..1]).unwrap();
    assert_eq!(seen[0], b'!', "and it goes on");
}

#[test]
fn input_waits_for_a_guest_that_does_not_read() {
    let rig = Rig::new(&Backend::Pty);
    let mut terminal = pty(rig.handle.as_ref().unwrap().pty_path().unwrap());
    let typed: Vec<u8> = (0..3000u32)
        .map(|i| u8::try_from(i % 253).unwrap())
        .collect();
    terminal.write_all(&typed).unwrap();
    eventually("a full FIFO", || rig.serial.counters().received == 64);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.serial.counters().received, 64, "no more than fits");
    assert_eq!(rig.hear(typed.len()), typed, "and nothing is lost");
}

#[test]
fn input_waits_while_the_guest_tests_its_port() {
    let rig = Rig::new(&Backend::Pty);
    let mut terminal = pty(rig.handle.as_ref().unwrap().pty_path().unwrap());
    rig.set(MCR, 0x10);
    terminal.write_all(b"early").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.register(LSR) & 1, 0);
    rig.set(MCR, 0);
    assert_eq!(rig.hear(5), b"early");
}

#[test]
fn a_socket_serves_one_client_after_the_other() {
    let scratch = Scratch::new("socket");
    let path = scratch.join("console");
    let mut rig = Rig::new(&Backend::Socket(path.clone()));
    rig.say(b"nobody");
    assert_eq!(rig.serial.counters().dropped, 6);
    let rival = Rig::from_state(&Backend::Socket(path.clone()), SerialV1::default());
    assert!(matches!(rival.err(), Some(SerialError::SocketInUse { .. })));

    for round in 0..3u8 {
        let mut client = UnixStream::connect(&path).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        client.write_all(&[round]).unwrap();
        assert_eq!(rig.hear(1), [round]);
        rig.say(&[b'0' + round]);
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [b'0' + round]);
        drop(client);
        let before = rig.serial.counters().dropped;
        eventually("the client to be gone", || {
            rig.say(b".");
            rig.serial.counters().dropped > before
        });
    }
    rig.stop();
    assert!(!path.exists(), "the socket is removed");
}

#[test]
fn a_socket_client_that_does_not_read_does_not_stop_the_guest() {
    let scratch = Scratch::new("slow");
    let path = scratch.join("console");
    let rig = Rig::new(&Backend::Socket(path.clone()));
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"!").unwrap();
    rig.hear(1);
    let total = 3 * PENDING_LIMIT;
    for i in 0..total {
        rig.say(&[u8::try_from(i % 251).unwrap()]);
    }
    let counters = rig.serial.counters();
    assert!(counters.dropped > 0);
    let mut seen = vec![0; total - usize::try_from(counters.dropped).unwrap()];
    client
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    client.read_exact(&mut seen).unwrap();
    assert_eq!(usize::from(*seen.last().unwrap()), (total - 1) % 251);
}

#[test]
fn a_stale_socket_is_replaced() {
    let scratch = Scratch::new("stale");
    let path = scratch.join("console");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let rig = Rig::new(&Backend::Socket(path.clone()));
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"x").unwrap();
    assert_eq!(rig.hear(1), b"x");
}

#[test]
fn a_saved_port_goes_on_elsewhere() {
    let rig = Rig::new(&Backend::Pty);
    let mut terminal = pty(rig.handle.as_ref().unwrap().pty_path().unwrap());
    rig.set(LCR, 0x80);
    rig.set(0, 1);
    rig.set(LCR, 0x03);
    rig.set(IER, 0x05);
    terminal.write_all(b"typed").unwrap();
    eventually("the input", || rig.serial.counters().received == 5);
    let saved = rig.serial.save();
    assert_eq!(saved.received, b"typed");
    let other = Rig::from_state(&Backend::Null, saved.clone()).unwrap();
    assert_eq!(other.serial.save(), saved);
    assert_eq!(other.register(IER), 0x05);
    assert_eq!(other.hear(5), b"typed");
    other.set(LCR, 0x80);
    assert_eq!(other.register(0), 1);
}

#[test]
fn a_saved_fifo_that_is_too_long_is_refused() {
    let state = SerialV1 {
        received: vec![0; 65],
        ..SerialV1::default()
    };
    let error = Rig::from_state(&Backend::Null, state).err();
    assert!(matches!(error, Some(SerialError::State(_))));
}

proptest! {
    #[test]
    fn any_access_is_survived_and_the_fifo_stays_bounded(
        accesses in prop::collection::vec(
            (any::<bool>(), prop_oneof![0u64..8, any::<u64>()],
             prop::collection::vec(any::<u8>(), 0..9)),
            0..400)
    ) {
        let device_loop = DeviceLoop::spawn("serial-test", || ()).unwrap();
        let (serial, _handle) = Serial::new(SerialSetup {
            backend: &Backend::Null,
            handed: Vec::new(),
            irq: Arc::new(CountedIrq::default()),
            device_loop: &device_loop.handle(),
            escape: Box::new(|_| ()),
            state: SerialV1::default(),
        }).unwrap();
        for (write, offset, mut data) in accesses {
            if write {
                prop_assert_eq!(serial.write(offset, &data), Action::Continue);
            } else {
                serial.read(offset, &mut data);
                prop_assert!(data.iter().skip(1).all(|&b| b == 0xff));
            }
        }
        let saved = serial.save();
        prop_assert!(saved.received.len() <= state::FIFO_SIZE);
        prop_assert_eq!(SerialV1::from(saved.clone().registers().unwrap()), saved);
    }
}
