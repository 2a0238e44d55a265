//! A port goes to another instance, with its client and what is on its way; or it does not.

use super::*;

/// More than a socket takes of a guest that writes byte by byte, and less than is kept.
const WRITTEN: usize = 200 << 10;

fn byte(at: usize) -> u8 {
    u8::try_from(at % 251).unwrap()
}

/// A port on a socket whose client has typed something and reads nothing, and whose guest has
/// written much and reads nothing.
struct Stage {
    rig: Rig,
    client: UnixStream,
    backend: Backend,
    scratch: Scratch,
}

impl Stage {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let backend = Backend::Socket(scratch.join("console"));
        let rig = Rig::new(&backend);
        let mut client = UnixStream::connect(scratch.join("console")).unwrap();
        let limit = Some(Duration::from_secs(20));
        client.set_read_timeout(limit).unwrap();
        client.write_all(b"!").unwrap();
        assert_eq!(rig.hear(1), b"!");
        // 64 bytes are in the port, and some of the others were read, too.
        client.write_all(&[b'a'; 100]).unwrap();
        for at in 0..WRITTEN {
            rig.say(&[byte(at)]);
        }
        assert_eq!(rig.serial.counters().dropped, 0);
        assert!(rig.serial.counters().sent < WRITTEN as u64);
        Self {
            rig,
            client,
            backend,
            scratch,
        }
    }

    /// What another instance makes of it.
    fn handed(&mut self) -> Rig {
        let handle = self.rig.handle.as_ref().unwrap();
        let files = handle.hand_over().unwrap();
        assert_eq!(files.len(), 3, "a note, a listener, a client");
        // This waits.
        self.client.write_all(b"later").unwrap();
        handle.leave_note().unwrap();
        let state = self.rig.serial.save();
        let there = Rig::made(&self.backend, files, SerialV1::default()).unwrap();
        there.serial.restore(state).unwrap();
        there.handle.as_ref().unwrap().read_note().unwrap();
        there
    }

    /// All is there once at `rig`, in order, for guest and client, and the next client too.
    fn assert_whole(mut self, rig: &Rig) {
        let mut seen = vec![0; WRITTEN];
        self.client.read_exact(&mut seen).unwrap();
        assert!((0..WRITTEN).all(|at| seen[at] == byte(at)));
        let typed = rig.hear(105);
        assert_eq!(typed, [&[b'a'; 100][..], b"later"].concat());
        rig.say(b"end");
        let mut end = [0; 3];
        self.client.read_exact(&mut end).unwrap();
        assert_eq!(&end, b"end");
        drop(self.client);
        let mut next = UnixStream::connect(self.scratch.join("console")).unwrap();
        next.write_all(b"x").unwrap();
        assert_eq!(rig.hear(1), b"x");
    }
}

#[test]
fn it_goes_with_its_client_and_all_that_is_on_its_way() {
    let mut stage = Stage::new("goes");
    let there = stage.handed();
    stage.rig.handle.as_ref().unwrap().disown();
    stage.rig.handle.take();
    let path = stage.scratch.join("console");
    assert!(path.exists());
    there.handle.as_ref().unwrap().go_on();
    stage.assert_whole(&there);
}

#[test]
fn it_stays_as_it_was() {
    let mut stage = Stage::new("stays");
    drop(stage.handed());
    assert!(stage.scratch.join("console").exists());
    let rig = std::mem::replace(&mut stage.rig, Rig::new(&Backend::Null));
    rig.handle.as_ref().unwrap().go_on();
    stage.assert_whole(&rig);
}

#[test]
fn descriptors_of_another_kind_are_refused() {
    let scratch = Scratch::new("kinds");
    let rig = Rig::new(&Backend::Pty);
    let files = || rig.handle.as_ref().unwrap().hand_over().unwrap();
    assert_eq!(files().len(), 3, "a note and both sides");
    for (backend, count) in [(Backend::Null, 3), (Backend::Pty, 2), (Backend::Pty, 1)] {
        let mut some = files();
        some.truncate(count);
        let made = Rig::made(&backend, some, SerialV1::default());
        assert!(matches!(made.err(), Some(SerialError::Handed { .. })));
    }
    // Where nothing is open that somebody could be connected to.
    let file = Rig::new(&Backend::File(scratch.join("log")));
    assert!(
        file.handle
            .as_ref()
            .unwrap()
            .hand_over()
            .unwrap()
            .is_empty()
    );
}
