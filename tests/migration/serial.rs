//! Who is connected to the serial port of a guest that is handed over on one host stays so.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::pair::{Pair, end_of_migration};
use crate::support::config::Config;
use crate::support::daemon::Daemon;
use crate::support::host::wait_until;
use crate::support::output::Output;

/// A client of the serial port: what it has read so far, and its way to write.
struct Client {
    read: Arc<Mutex<Vec<u8>>>,
    write: Box<dyn Write>,
    socket: Option<UnixStream>,
}

impl Client {
    fn of(mut reader: impl Read + Send + 'static, write: impl Write + 'static) -> Self {
        let read = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&read);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                kept.lock().expect("what was read").extend(&buffer[..count]);
            }
        });
        Self {
            read,
            write: Box::new(write),
            socket: None,
        }
    }

    fn of_socket(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("connecting to the serial port");
        let reader = stream.try_clone().expect("a descriptor");
        let mut client = Self::of(reader, stream.try_clone().expect("a descriptor"));
        client.socket = Some(stream);
        client
    }

    fn of_terminal(path: &Path) -> Self {
        let open = || File::options().read(true).write(true).open(path);
        let terminal = open().expect("opening the terminal");
        Self::of(terminal, open().expect("opening the terminal"))
    }

    /// From the first whole line on: the client came in the middle of one.
    fn output(&self) -> Output {
        let read = self.read.lock().expect("what was read");
        let start = read.iter().position(|byte| *byte == b'\n');
        Output::new(start.map_or(&[][..], |start| &read[start + 1..]))
    }

    /// The guest answers what is typed, and beats on meanwhile.
    #[track_caller]
    fn assert_answered(&mut self) {
        let before = (
            self.output().all("report").len(),
            self.output().beats().len(),
        );
        self.write.write_all(b"s").expect("typing");
        wait_until("the guest answers", || {
            let output = self.output();
            output.all("report").len() > before.0 && output.beats().len() > before.1
        });
    }

    /// All that the guest has written since the first beat that came is there, once.
    #[track_caller]
    fn assert_whole(&self) {
        let output = self.output();
        output.assert_sound();
        let beats = output.beats().into_bytes();
        for (at, pair) in beats.windows(2).enumerate() {
            let next = if pair[0] == b'z' { b'a' } else { pair[0] + 1 };
            assert_eq!(
                pair[1],
                next,
                "beat {at} of {} is missing or twice",
                beats.len()
            );
        }
    }
}

fn guest(serial: Value) -> Config {
    Config::new("control fill=64K verify beat_every=16").with(json!({"serial": serial}))
}

fn boot(pair: &mut Pair, config: &Config) {
    pair.source.put_json("vm.create", &config.to_json());
    pair.source.put("vm.boot");
}

fn boot_with_client(pair: &mut Pair, path: &Path) -> Client {
    boot(pair, &guest(json!({"mode": "Socket", "socket": path})));
    let mut client = Client::of_socket(path);
    client.assert_answered();
    client
}

#[test]
fn a_client_of_its_socket() {
    let mut pair = Pair::new();
    // Not in the folder of a process that ends.
    let place = crate::support::scratch::Scratch::new();
    let path = place.file("serial.sock");
    let mut client = boot_with_client(&mut pair, &path);
    for _ in 0..3 {
        pair = pair.move_on(json!({"local": true}));
        client.assert_answered();
    }
    client.assert_whole();

    // One that waited is served next, wherever the guest has gone.
    let mut next = Client::of_socket(&path);
    pair = pair.move_on(json!({"local": true}));
    client.assert_answered();
    client.assert_whole();
    let socket = client.socket.take().expect("its socket");
    socket.shutdown(std::net::Shutdown::Both).expect("leaving");
    drop(client);
    next.assert_answered();
    // And nobody is there for a while.
    drop(
        next.socket
            .take()
            .map(|socket| socket.shutdown(std::net::Shutdown::Both)),
    );
    pair = pair.move_on(json!({"local": true}));
    Client::of_socket(&path).assert_answered();
    pair.destination.shut_down();
    assert!(fs::exists(&path).expect("looking"), "it is the source's");
    pair.source.shut_down();
    assert!(!fs::exists(&path).expect("looking"), "it stays behind");
}

#[test]
fn a_client_of_its_terminal() {
    fn path(daemon: &mut Daemon) -> String {
        let info = daemon.get("vm.info").expect("vm.info");
        let path = info["config"]["serial"]["file"].as_str();
        path.unwrap_or_else(|| panic!("no terminal in {info}"))
            .to_owned()
    }
    let mut pair = Pair::new();
    boot(&mut pair, &guest(json!({"mode": "Pty"})));
    let place = path(&mut pair.source);
    let mut client = Client::of_terminal(Path::new(&place));
    client.assert_answered();
    for _ in 0..2 {
        pair = pair.move_on(json!({"local": true}));
        assert_eq!(path(&mut pair.source), place);
        client.assert_answered();
    }
    client.assert_whole();
    pair.destination.shut_down();
    pair.source.shut_down();
}

/// The destination refuses the guest after it has got the descriptors.
#[test]
fn a_client_of_a_guest_that_stays() {
    let mut pair = Pair::new();
    let place = crate::support::scratch::Scratch::new();
    let path = place.file("serial.sock");
    let mut client = boot_with_client(&mut pair, &path);
    for _ in 0..2 {
        let url = pair.unix();
        // No other network device is there, so that nothing is found in its place.
        let nobody = json!({"id": "nobody", "tap": "gwnone"});
        let received = pair.receive_with(&url, json!({"net": [nobody]}));
        pair.send(&url, json!({"local": true}));
        let end = end_of_migration(&mut pair.source);
        assert_eq!(end["status"], "failed", "{end}");
        assert!(end["error"].to_string().contains("nobody"), "{end}");
        assert!(received.join().expect("the client").is_err());
        client.assert_answered();
    }
    client.assert_whole();
    let pair = pair.move_on(json!({"local": true}));
    client.assert_answered();
    client.assert_whole();
    pair.destination.shut_down();
    pair.source.shut_down();
    assert!(!fs::exists(&path).expect("looking"), "it stays behind");
}
