//! Disks.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use serde_json::json;

use crate::support::linux::{self, LinuxVm};
use crate::support::scratch::Scratch;

const SIZE: usize = 4 << 20;

fn image(scratch: &Scratch) -> std::path::PathBuf {
    let mut bytes = vec![0; SIZE];
    bytes[..12].copy_from_slice(b"from-the-hos");
    scratch.write("disk.img", bytes)
}

#[test]
fn what_the_guest_writes_is_read_back_on_the_host() {
    let scratch = Scratch::new();
    let path = image(&scratch);
    // The example, but for the place of its image.
    let example = linux::example("disk.json");
    let mut disks = example.json()["disks"].clone();
    disks[0]["path"] = json!(path);
    let config = example.with(json!({"disks": disks}));
    let ended = LinuxVm::start(scratch, config, &[]).wait_code(0);
    let console = &ended.ended.stdout;
    assert!(
        console.contains("godwit: disk start from-the-hos"),
        "{console}"
    );
    assert!(
        console.contains("godwit: disk written 1048576 at 1048576"),
        "{console}"
    );

    let mut file = fs::File::open(&path).expect("the image");
    file.seek(SeekFrom::Start(1 << 20)).expect("seeking");
    let mut written = vec![0; 1 << 20];
    file.read_exact(&mut written).expect("reading the image");
    let line = b"written-by-the-guest\n";
    let wrong = written
        .iter()
        .zip(line.iter().cycle())
        .position(|(is, should)| is != should);
    assert_eq!(wrong, None);
    drop(ended.scratch);
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let scratch = Scratch::new();
    let path = image(&scratch);
    let before = fs::read(&path).expect("the image");
    let config =
        linux::task("godwit.task=disk").with(json!({"disks": [{"path": path, "readonly": true}]}));
    let ended = LinuxVm::start(scratch, config, &[]).wait_code(0);
    let console = &ended.ended.stdout;
    assert!(console.contains("godwit: disk refused"), "{console}");
    assert!(
        fs::read(&path).expect("the image") == before,
        "the image changed"
    );
}
