//! The serial port's back ends.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use godwit_lab::peer::listens;
use serde_json::json;

use crate::support::config::Config;
use crate::support::output::Output;
use crate::support::process::{self, Godwit, PATIENCE};
use crate::support::scratch::Scratch;
use crate::support::vm::{TestVm, run_to_power_off};

/// `rep outsb`: one exit carries several bytes, and each is one.
#[test]
fn string_writes_arrive_in_order() {
    let output = run_to_power_off(Config::new("outs poweroff"));
    let line = output.one("outs").text;
    assert_eq!(line, "@outs ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789");
}

#[test]
fn a_file_gets_every_byte() {
    let beats = 5000;
    let output = run_to_power_off(Config::new(&format!("beats={beats} poweroff")));
    let expected: String = ('a'..='z').cycle().take(beats).collect();
    assert_eq!(output.beats(), expected);
}

#[test]
fn a_file_is_emptied_first() {
    let scratch = Scratch::new();
    scratch.write("serial.log", "from another day\n");
    let ended = TestVm::start_in(scratch, Config::new("poweroff"), &[]).wait();
    let output = ended.assert_code(0).output;
    assert!(output.text().starts_with("@boot "), "{}", output.text());
}

/// Reads lines until one of `topic` comes.
#[track_caller]
fn read_to(reader: &mut impl BufRead, topic: &str) -> String {
    let mut all = String::new();
    let start = format!("@{topic}");
    loop {
        let before = all.len();
        match reader.read_line(&mut all) {
            Ok(1..) => {}
            other => panic!("{other:?} instead of {start} after:\n{all}"),
        }
        if all.split_at(before).1.starts_with(&start) {
            return all;
        }
    }
}

#[test]
fn a_socket_goes_both_ways() {
    let scratch = Scratch::new();
    let socket = scratch.file("serial.sock");
    let config = Config::new("control beat_every=1000000")
        .with(json!({"serial": {"mode": "Socket", "socket": socket}}));
    let mut vm = TestVm::start_in(scratch, config, &[]);
    vm.wait_until(|_| listens(&socket).then_some(()));
    let mut stream = UnixStream::connect(&socket).expect("connecting");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut reader = BufReader::new(stream.try_clone().expect("a second descriptor"));
    stream.write_all(b"s").expect("asking for a report");
    read_to(&mut reader, "report");

    // A second client is served when the first has gone.
    drop((stream, reader));
    let mut stream = UnixStream::connect(&socket).expect("connecting again");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut reader = BufReader::new(stream.try_clone().expect("a second descriptor"));
    stream.write_all(b"so").expect("asking for the end");
    read_to(&mut reader, "end by=poweroff");
    let ended = vm.wait().assert_code(0);
    assert_eq!(
        ended.scratch.names(),
        ["vm.json"],
        "the socket stays behind"
    );
}

#[test]
fn a_stale_socket_is_replaced() {
    let scratch = Scratch::new();
    let socket = scratch.file("serial.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("leaving a socket"));
    let config =
        Config::new("poweroff").with(json!({"serial": {"mode": "Socket", "socket": socket}}));
    let ended = TestVm::start_in(scratch, config, &[]).wait().assert_code(0);
    assert_eq!(ended.scratch.names(), ["vm.json"]);
}

#[test]
fn a_pseudo_terminal_goes_both_ways() {
    let config = Config::new("control beat_every=1000000").with(json!({"serial": {"mode": "Pty"}}));
    let mut vm = TestVm::start(config);
    let path = vm.wait_until(|vm| {
        let said = vm.process.stderr();
        let (line, _) = said.split_once('\n')?;
        let (_, path) = line.split_once("The serial port is at ")?;
        Some(path.to_owned())
    });
    let terminal = OpenOptions::new().read(true).write(true).open(&path);
    let mut terminal = terminal.unwrap_or_else(|error| panic!("opening {path}: {error}"));
    let mut reader = BufReader::new(terminal.try_clone().expect("a second descriptor"));
    // What was written before anybody looked is kept.
    let first = read_to(&mut reader, "cmdline");
    assert!(first.starts_with("@boot "), "{first}");
    terminal.write_all(b"s").expect("asking for a report");
    read_to(&mut reader, "report");
    terminal.write_all(b"o").expect("asking for the end");
    read_to(&mut reader, "end by=poweroff");
    vm.wait().assert_code(0);
    assert!(!std::path::Path::new(&path).exists(), "{path} stays behind");
}

#[test]
fn a_pipe_in_place_of_the_terminal_goes_both_ways() {
    let config = Config::new("echo beat_every=1000000000").with(json!({"serial": {"mode": "Tty"}}));
    let mut vm = TestVm::start(config);
    let output = |vm: &mut TestVm| Output::new(&vm.process.stdout());
    vm.wait_until(|vm| output(vm).all("cmdline").pop());
    // 200 bytes: more than the port's FIFO holds. The escape key is a terminal's only.
    let typed: String = (0..20).map(|n| format!("{n:02} \x01x ~!\r\n")).collect();
    vm.process.type_in(&typed);
    vm.wait_until(|vm| output(vm).text().ends_with(&typed).then_some(()));
    let ended = vm.terminate().assert_code(0);
    assert!(ended.process.stdout.ends_with(&typed));
}

/// `/dev/stdout` is a file like any other, also when it leads to a terminal.
#[test]
fn a_terminal_given_as_a_file_gets_every_byte() {
    let beats = 3000;
    let config = Config::new(&format!("beats={beats} poweroff"))
        .with(json!({"serial": {"mode": "File", "file": "/dev/stdout"}}));
    let scratch = Scratch::new();
    let path = scratch.write("vm.json", config.to_json());
    let mut command = Command::new(process::binary());
    command.arg("run").arg(path);
    let ended = Godwit::spawn_on_terminal(command).wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let output = Output::new(ended.stdout.replace("\r\n", "\n").as_bytes());
    let expected: String = ('a'..='z').cycle().take(beats).collect();
    assert_eq!(output.beats(), expected);
    output.one("end");
}

/// Nobody reads, and the guest goes on: its output never stops it.
#[test]
fn a_socket_that_nobody_reads_does_not_stop_the_guest() {
    let scratch = Scratch::new();
    let socket = scratch.file("serial.sock");
    let config = Config::new("beats=60000 poweroff")
        .with(json!({"serial": {"mode": "Socket", "socket": socket}}));
    let mut vm = TestVm::start_in(scratch, config, &[]);
    vm.wait_until(|_| listens(&socket).then_some(()));
    let mut stream = UnixStream::connect(&socket).expect("connecting");
    vm.wait().assert_code(0);
    // The end is told by an end of file, after what could be kept.
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    let read = io::copy(&mut stream, &mut io::sink());
    assert!(read.is_ok(), "{read:?}");
}

#[test]
fn a_machine_without_a_serial_port_runs() {
    for mode in ["Off", "Null"] {
        let config = Config::new("beats=10 poweroff").with(json!({"serial": {"mode": mode}}));
        let ended = TestVm::start(config).wait().assert_code(0);
        assert_eq!(ended.process.stdout, "");
        assert_eq!(ended.scratch.names(), ["vm.json"]);
    }
}
