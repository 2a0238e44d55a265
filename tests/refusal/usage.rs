//! Arguments.

use std::process::Command;

use crate::support::process::{self, Godwit};

#[track_caller]
fn usage(arguments: &[&str], words: &[&str]) {
    let mut command = Command::new(process::binary());
    command.args(arguments);
    Godwit::spawn(command).wait().assert_refused(2, words);
}

#[test]
fn no_arguments() {
    usage(&[], &["Usage: godwit", "run"]);
}

#[test]
fn no_config() {
    usage(&["run"], &["<CONFIG>", "Usage: godwit run"]);
}

#[test]
fn unknown_flag() {
    usage(
        &["run", "--no-rebot", "vm.json"],
        &["--no-rebot", "--no-reboot"],
    );
}

#[test]
fn a_filter_of_system_calls() {
    usage(
        &["--seccomp=maybe", "run", "vm.json"],
        &["expected true, false or log"],
    );
}

#[test]
fn unknown_command() {
    usage(&["rum", "vm.json"], &["rum", "run"]);
}

#[test]
fn a_log_file_that_cannot_be_made() {
    let mut command = Command::new(process::binary());
    command.args(["run", "vm.json", "--log-file", "/nonexistent/log"]);
    let ended = Godwit::spawn(command).wait();
    super::assert_refused(&ended, &["log file", "/nonexistent/log", "No such file"]);
}
