//! The terminal back end, in a child process of its own whose standard input and
//! output are a pseudo-terminal or pipes: it is this test binary again, told by
//! an environment variable to play the machine.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use super::*;

const ROLE: &str = "GODWIT_TEST_TTY_ROLE";

/// The machine: a guest that echoes in upper case until the escape key or the
/// letter `q`, then ends as its role says.
#[test]
fn machine() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let mut rig = Rig::new(&Backend::Tty);
    rig.say(b"READY\r\n");
    let quit = loop {
        if rig.escapes.try_recv() == Ok(Escape::Quit) {
            break "escape";
        }
        if rig.register(LSR) & 1 == 0 {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        match rig.register(DATA) {
            b'q' => break "q",
            byte => rig.say(&[byte.to_ascii_uppercase()]),
        }
    };
    rig.say(format!("BYE {quit}\r\n").as_bytes());
    match role.as_str() {
        "stop" => rig.stop(),
        "exit" => {
            std::mem::forget(rig);
            std::process::exit(7);
        }
        "panic" => {
            std::mem::forget(rig);
            let _ = std::thread::spawn(|| panic!("as the test wants")).join();
            std::process::abort();
        }
        other => panic!("no role {other}"),
    }
}

fn spawn(role: &str, stdin: Stdio, stdout: Stdio) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "serial::tests::tty::machine", "--nocapture"])
        .env(ROLE, role)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

struct Terminal {
    ours: fs::File,
    theirs: OwnedFd,
    seen: Vec<u8>,
}

impl Terminal {
    fn new() -> Self {
        let pair = nix::pty::openpty(None, None).unwrap();
        Self {
            ours: pair.master.into(),
            theirs: pair.slave,
            seen: Vec::new(),
        }
    }

    fn spawn(&self, role: &str) -> Child {
        let side = || Stdio::from(self.theirs.try_clone().unwrap());
        spawn(role, side(), side())
    }

    fn is_raw(&self) -> bool {
        let flags = tcgetattr(&self.theirs).unwrap().local_flags;
        !flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    fn typed(&mut self, bytes: &[u8]) {
        self.ours.write_all(bytes).unwrap();
    }

    /// Reads until `text` was seen.
    fn sees(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.seen).contains(text) {
            let mut fds = [nix::poll::PollFd::new(
                std::os::fd::AsFd::as_fd(&self.ours),
                nix::poll::PollFlags::POLLIN,
            )];
            let ready = nix::poll::poll(&mut fds, 20_000u16).unwrap();
            let seen = String::from_utf8_lossy(&self.seen);
            assert!(ready > 0, "no {text:?} in {seen:?}");
            let mut buffer = [0; 512];
            let read = self.ours.read(&mut buffer).unwrap();
            self.seen.extend(&buffer[..read]);
        }
    }
}

fn code(mut child: Child) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the child did not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_terminal_is_raw_while_the_machine_runs() {
    let mut terminal = Terminal::new();
    assert!(!terminal.is_raw());
    let child = terminal.spawn("stop");
    terminal.sees("READY");
    assert!(terminal.is_raw());
    // Ctrl-C and Ctrl-Z are the guest's.
    terminal.typed(b"hello\x03\x1a");
    terminal.sees("HELLO\x03\x1a");
    terminal.typed(b"\x01?");
    terminal.sees("end the virtual machine");
    terminal.typed(b"<\x01\x01>");
    terminal.sees("<\x01>");
    terminal.typed(b"\x01x");
    terminal.sees("BYE escape");
    assert_eq!(code(child), Some(0));
    assert!(!terminal.is_raw(), "the terminal is as it was");
}

#[test]
fn a_terminal_is_restored_whatever_ends_the_machine() {
    for role in ["exit", "panic"] {
        let mut terminal = Terminal::new();
        let child = terminal.spawn(role);
        terminal.sees("READY");
        assert!(terminal.is_raw());
        terminal.typed(b"q");
        terminal.sees("BYE q");
        assert_eq!(code(child), (role == "exit").then_some(7));
        assert!(!terminal.is_raw(), "after {role}");
    }
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGABRT,
    ] {
        let mut terminal = Terminal::new();
        let child = terminal.spawn("stop");
        terminal.sees("READY");
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(pid, signal).unwrap();
        assert_eq!(code(child), None, "ended by {signal}");
        assert!(!terminal.is_raw(), "after {signal}");
    }
}

#[test]
fn the_escape_key_works_while_the_guest_does_not_read() {
    let mut terminal = Terminal::new();
    let child = terminal.spawn("stop");
    terminal.sees("READY");
    for _ in 0..100 {
        terminal.typed(&[b'x'; 50]);
    }
    terminal.typed(b"\x01x");
    terminal.sees("BYE escape");
    assert_eq!(code(child), Some(0));
}

#[test]
fn standard_input_that_is_no_terminal_is_read_to_its_end() {
    let mut child = spawn("stop", Stdio::piped(), Stdio::piped());
    let mut stdin = child.stdin.take().unwrap();
    let text: Vec<u8> = b"abcdefgh".repeat(1000);
    stdin.write_all(&text).unwrap();
    stdin.write_all(b"\x01xq").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = format!("{}\x01X", String::from_utf8(text).unwrap().to_uppercase());
    assert!(seen.contains(&expected), "a pipe has no escape key");
    assert!(seen.contains("BYE q"));
}

#[test]
fn a_file_as_standard_input_is_read_to_its_end() {
    let scratch = Scratch::new("stdin");
    let path = scratch.join("input");
    fs::write(&path, [b"word ".repeat(100), b"q".to_vec()].concat()).unwrap();
    let file = fs::File::open(&path).unwrap();
    let child = spawn("stop", Stdio::from(file), Stdio::piped());
    let output = child.wait_with_output().unwrap();
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(seen.contains(&"WORD ".repeat(100)), "{seen}");
    assert!(seen.contains("BYE q"), "{seen}");
}

#[test]
fn without_input_the_machine_runs_on() {
    // A null device cannot be waited for; a closed pipe hangs up for ever.
    for stdin in [Stdio::null(), Stdio::piped()] {
        let mut child = spawn("stop", stdin, Stdio::piped());
        drop(child.stdin.take());
        let mut stdout = child.stdout.take().unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("READY") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(child.try_wait().unwrap(), None);
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        assert!(ticks < 20, "the machine spins: {ticks} ticks");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
