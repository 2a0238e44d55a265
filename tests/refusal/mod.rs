//! What godwit refuses: the words name the value, the reason and the way out, the exit code is
//! not 0, and nothing is left behind.

mod config;
mod devices;
mod host;
mod kernel;
mod usage;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::config::Config;
use crate::support::process::{self, Ended, Godwit};
use crate::support::scratch::Scratch;

/// Who runs godwit.
#[derive(Clone, Copy)]
enum User {
    Us,
    /// Somebody without any permission.
    Nobody,
}

/// Runs `config` in `scratch`, which must be as it was afterwards.
#[track_caller]
fn run(scratch: &Scratch, config: &str, user: User) -> Ended {
    let path = scratch.write("vm.json", config);
    let before = scratch.names();
    let ended = start(process::binary(), &path, user);
    assert_eq!(scratch.names(), before, "something stays behind");
    ended
}

fn start(binary: impl AsRef<Path>, config: &Path, user: User) -> Ended {
    let mut command = Command::new(binary.as_ref());
    command.arg("run").arg(config);
    if let User::Nobody = user {
        command.uid(65534).gid(65534);
    }
    Godwit::spawn(command).wait()
}

/// The config is refused with code 1, and standard error holds each of `words`.
#[track_caller]
pub fn refused_in(scratch: &Scratch, config: &str, words: &[&str]) {
    assert_refused(&run(scratch, config, User::Us), words);
}

#[track_caller]
fn assert_refused(ended: &Ended, words: &[&str]) {
    ended.assert_refused(1, words);
    assert!(ended.stderr.starts_with("godwit: "), "{}", ended.stderr);
}

/// A machine whose serial port is a socket in `scratch`: one that stays behind shows.
pub fn with_socket(scratch: &Scratch, config: Config) -> Config {
    config.with(json!({"serial": {"mode": "Socket", "socket": scratch.file("serial.sock")}}))
}

/// A good config but for `piece`.
#[track_caller]
fn refused(piece: serde_json::Value, words: &[&str]) {
    let scratch = Scratch::new();
    let config = with_socket(&scratch, Config::new("poweroff")).with(piece);
    refused_in(&scratch, &config.to_json(), words);
}
