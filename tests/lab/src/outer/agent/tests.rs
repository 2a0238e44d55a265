//! The agent and its client, over a pair of sockets instead of a console port.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use super::*;
use crate::outer::client::{AgentError, Client};
use crate::outer::exec;

const SOON: Duration = Duration::from_secs(20);

fn pair() -> (Client, JoinHandle<io::Result<()>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let output = theirs.try_clone().unwrap();
    let agent = thread::spawn(move || attend(theirs, Box::new(output)));
    let (client, ready) = Client::new(ours).unwrap();
    assert!(matches!(
        ready.recv_timeout(SOON),
        Ok((Reply::Ready { .. }, _))
    ));
    (client, agent)
}

fn shell(script: &str, limit: Duration) -> Exec {
    exec(["sh", "-c", script].map(str::to_owned).to_vec(), limit)
}

#[test]
fn streams_and_exit_code_come_back() {
    let (client, _agent) = pair();
    let mut pieces = 0;
    let output = client
        .run(shell("echo out; echo err >&2; exit 3", SOON), |_, _| {
            pieces += 1
        })
        .unwrap();
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(output.ending, Ending::Exited(3));
    assert!(pieces >= 2);
}

#[test]
fn a_program_past_its_limit_is_killed_with_its_children() {
    let (client, _agent) = pair();
    let started = Instant::now();
    let exec = shell("sleep 60 & echo $!; sleep 60", Duration::from_millis(300));
    let output = client.run(exec, |_, _| {}).unwrap();
    assert_eq!(output.ending, Ending::TimedOut);
    assert!(started.elapsed() < SOON);
    let child = format!("/proc/{}/stat", output.stdout.trim());
    // Killed; until its new parent collects it, it is a zombie.
    let ended = || {
        let Ok(state) = fs::read_to_string(&child) else {
            return true;
        };
        let state = state.rsplit(')').next().map(str::trim);
        state.is_some_and(|state| state.starts_with('Z'))
    };
    while !ended() {
        // What is killed takes a moment to die.
        assert!(started.elapsed() < SOON, "{child} is still there");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn several_programs_run_at_once() {
    let (client, _agent) = pair();
    let started = Instant::now();
    thread::scope(|scope| {
        for code in 0..4 {
            let client = &client;
            scope.spawn(move || {
                let output = client.run(shell(&format!("sleep 1; exit {code}"), SOON), |_, _| {});
                assert_eq!(output.unwrap().ending, Ending::Exited(code));
            });
        }
    });
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "one after the other"
    );
}

#[test]
fn input_reaches_a_program_on_a_terminal() {
    let (client, _agent) = pair();
    let mut exec = shell(
        "tty && stty size && read -r word && echo \"got $word\"",
        SOON,
    );
    exec.terminal = Some((33, 99));
    let mut job = client.start(exec).unwrap();
    job.input(b"hello\n").unwrap();
    let mut seen = String::new();
    let ending = loop {
        match job.next(SOON).unwrap() {
            Some((Reply::Output(_), data)) => seen.push_str(&String::from_utf8_lossy(&data)),
            Some((Reply::Ended(ending), _)) => break ending,
            other => panic!("{other:?}, after {seen}"),
        }
    };
    assert!(ending.success(), "{ending}: {seen}");
    assert!(
        seen.contains("/dev/pts/") && seen.contains("33 99") && seen.contains("got hello"),
        "{seen}"
    );
}

#[test]
fn a_program_that_is_not_there_is_refused() {
    let (client, _agent) = pair();
    let output = client
        .run(exec(vec!["/no/such/program".to_owned()], SOON), |_, _| {})
        .unwrap();
    assert!(
        matches!(output.ending, Ending::Refused(_)),
        "{}",
        output.ending
    );
}

#[test]
fn files_come_back_as_they_went() {
    let (client, _agent) = pair();
    let path = std::env::temp_dir().join(format!("godwit-agent-{}", std::process::id()));
    let contents: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    client.put(&path, 0o640, &contents).unwrap();
    let back = client.get(&path).unwrap();
    assert!(back == contents, "{} bytes", back.len());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o640
    );
    fs::remove_file(&path).unwrap();
    assert!(matches!(client.get(&path), Err(AgentError::Refused { .. })));
}

#[test]
fn the_end_of_either_side_ends_the_other() {
    let (client, agent) = pair();
    client.power_off().unwrap();
    agent.join().unwrap().unwrap();
    let result = client.run(shell("true", SOON), |_, _| {});
    assert!(
        matches!(result, Err(AgentError::Gone | AgentError::Port(_))),
        "{result:?}"
    );
}
