//! `godwit ctl top` in a real terminal.

use std::process::Command;

use crate::support::config::Config;
use crate::support::daemon::Daemon;
use crate::support::process;
use crate::support::scratch::Scratch;

/// A tmux server of the test's own, killed at the end. Its socket is there until
/// then: without it, nobody could.
struct Tmux(Scratch);

impl Tmux {
    fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(self.0.file("tmux.sock"))
            .args(["-f", "/dev/null"])
            .args(arguments)
            .env_remove("TMUX")
            .output()
            .unwrap_or_else(|error| panic!("needs the program tmux: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // What is not killed is seen: it would outlive the test.
        let mut kill = Command::new("tmux");
        kill.arg("-S")
            .arg(self.0.file("tmux.sock"))
            .arg("kill-server");
        match kill.output() {
            Ok(output) if output.status.success() => (),
            other => eprintln!("tmux stays behind: {other:?}"),
        }
    }
}

/// The screen is taken, follows the window's size, and is given back: by q, and
/// by a signal.
#[test]
fn top_takes_the_screen_and_gives_it_back() {
    let mut daemon = Daemon::start();
    daemon.create(Config::new("beat_every=10000"));
    daemon.put("vm.boot");
    let tmux = Tmux(Scratch::new());
    let size = ["-x", "90", "-y", "40"];
    tmux.run(&[&["new-session", "-d"][..], &size, &["sh"]].concat());
    tmux.run(&["send-keys", "echo be''fore", "Enter"]);
    let binary = process::binary();
    let binary = binary.to_str().expect("a path");
    let socket = daemon.socket();
    let socket = socket.to_str().expect("a path");
    let top = format!("{binary} ctl --api-socket {socket} top --interval 0.1; echo en''ded $?");
    daemon.wait_until("a shell", |_| tmux.screen().contains("before"));

    for end in ["q", "C-c"] {
        tmux.run(&["send-keys", &top, "Enter"]);
        daemon.wait_until("the picture", |_| {
            tmux.screen().contains("godwit top - Running")
        });
        daemon.wait_until("figures", |_| {
            let screen = tmux.screen();
            let begins = |word| screen.lines().any(|line| line.starts_with(word));
            ["VCPU", "THREAD", "vcpu0", "GUEST MEMORY"]
                .into_iter()
                .all(begins)
        });
        assert!(!tmux.screen().contains("before"), "the screen is its own");
        daemon.put("vm.pause");
        daemon.wait_until("news", |_| tmux.screen().contains("godwit top - Paused"));
        daemon.put("vm.resume");
        tmux.run(&["send-keys", end]);
        daemon.wait_until("the shell again", |_| tmux.screen().contains("ended 0"));
        assert!(tmux.screen().contains("before"), "what was there is back");
        tmux.run(&["send-keys", "clear; echo be''fore", "Enter"]);
        daemon.wait_until("a clean screen", |_| {
            let screen = tmux.screen();
            screen.contains("before") && !screen.contains("ended")
        });
    }
    // Lines are edited and shown again.
    tmux.run(&["send-keys", "stty -a", "Enter"]);
    daemon.wait_until("the mode", |_| tmux.screen().contains("icanon"));
    let mode = tmux.screen();
    assert!(
        !mode.contains("-icanon") && !mode.contains("-echo "),
        "{mode}"
    );
    daemon.shut_down();
}
