use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread;

use godwit_api::error::ErrorChain;
use godwit_api::response::{MigrationRole, PhaseTime};

use super::*;

fn progress(status: MigrationStatus, phase: &str) -> Progress {
    Progress {
        role: MigrationRole::Source,
        status,
        phase: phase.to_owned(),
        phases: vec![PhaseTime::default()],
        rounds: 2,
        present_bytes: 4 << 30,
        scanned_bytes: 0,
        zero_bytes: 0,
        sent_bytes: 1 << 30,
        remaining_bytes: 1 << 20,
        dirty_pages_per_second: 7,
        predicted_downtime_us: Some(900),
        downtime_us: Some(812),
        total_us: 1_500_000,
        error: ErrorChain(vec!["the connection broke".to_owned(), "reset".to_owned()]),
    }
}

/// A source that takes the request, says what it is told to say, and is gone.
fn serve(path: PathBuf, told: Vec<Progress>) {
    let listener = UnixListener::bind(&path).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(stream);
    let progress = told.iter().map(|p| serde_json::to_string(p).unwrap());
    for body in std::iter::once(String::new()).chain(progress) {
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            if let Some(text) = line.strip_prefix("Content-Length: ") {
                length = text.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        stream.read_exact(&mut vec![0; length]).unwrap();
        let head = format!("HTTP/1.1 200 \r\nContent-Length: {}\r\n\r\n", body.len());
        let mut stream = stream.get_ref();
        stream.write_all((head + &body).as_bytes()).unwrap();
    }
    fs::remove_file(&path).unwrap();
}

fn watch(told: Vec<Progress>) -> Result<(), Failure> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let source = thread::spawn({
        let path = path.clone();
        move || serve(path, told)
    });
    while !fs::exists(&path).unwrap() {
        thread::yield_now();
    }
    let migrate = Migrate {
        words: Words {
            words: vec!["unix:/m.sock".to_owned()],
        },
        detach: false,
    };
    let outcome = run(&migrate, &mut Client::new(&path), Form::Json);
    source.join().unwrap();
    outcome
}

#[test]
fn it_ends_as_the_migration_does() {
    use MigrationStatus::{Cancelled, Failed, Finished, Ongoing};
    let ongoing = || progress(Ongoing, "copy");
    watch(vec![ongoing(), progress(Finished, "release")]).unwrap();
    let failed = watch(vec![ongoing(), progress(Failed, "copy")]).unwrap_err();
    assert_eq!(failed.code(), 1);
    let mut said = Vec::new();
    failed.report(Form::Text, &mut said).unwrap();
    assert_eq!(
        String::from_utf8(said).unwrap(),
        "godwit: the migration failed in phase copy\n  because: the connection broke\n  \
         because: reset\n"
    );
    let cancelled = watch(vec![progress(Cancelled, "copy")]).unwrap_err();
    assert_eq!(cancelled.code(), 7);
}

#[test]
fn a_source_that_is_gone_has_moved_its_guest_or_crashed() {
    let ongoing = |phase| progress(MigrationStatus::Ongoing, phase);
    watch(vec![ongoing("copy"), ongoing("release")]).unwrap();
    for told in [vec![ongoing("copy")], vec![]] {
        let lost = watch(told).unwrap_err();
        assert!(matches!(lost, Failure::Lost { .. }), "{lost:?}");
        assert_eq!(lost.code(), 6);
    }
}

#[test]
fn the_summary_has_the_figures() {
    let text = summary(&progress(MigrationStatus::Finished, "release"));
    assert_eq!(
        text,
        "the guest has moved: downtime 812 µs, 1.5 s in all; 1 GiB sent of 4 GiB present, 2 \
         round(s)\n"
    );
}
