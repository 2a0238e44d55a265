//! These open real interfaces: they need root and `/dev/net/tun`.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

/// A persistent interface that goes when the test ends.
struct Persistent(String);

impl Persistent {
    fn new(flags: &[&str]) -> Self {
        let name = unused_name();
        let mut arguments = vec!["tuntap", "add", "dev", &name, "mode"];
        arguments.extend(flags);
        ip(&arguments);
        Self(name)
    }

    fn tap(flags: &[&str]) -> Self {
        Self::new(&[&["tap"], flags].concat())
    }

    fn open(&self, queues: u16) -> Result<Tap, TapError> {
        Tap::open(TapSource::Existing(self.0.clone()), queues)
    }

    /// Opens it once more after it was closed: another test's child may hold
    /// the old queues until its exec.
    fn reopen(&self, queues: u16) -> Tap {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.open(queues) {
                Err(TapError::Busy { .. }) if Instant::now() < deadline => thread::yield_now(),
                result => return result.unwrap(),
            }
        }
    }

    fn show(&self) -> String {
        ip(&["-details", "link", "show", "dev", &self.0])
    }
}

impl Drop for Persistent {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["link", "del", "dev", &self.0])
            .status();
    }
}

fn unused_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("gw{}t{next}", std::process::id())
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("this test needs the program ip (package iproute2)");
    assert!(
        output.status.success(),
        "`ip {}` failed; this test needs root and /dev/net/tun: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn text(result: Result<Tap, TapError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_persistent_tap_is_opened_and_given_back() {
    let persistent = Persistent::tap(&["vnet_hdr"]);
    for _ in 0..2 {
        let tap = persistent.reopen(1);
        assert_eq!((tap.name(), tap.queue_count()), (&*persistent.0, 1));
        assert_eq!(tap.mtu().unwrap(), 1500);
        tap.set_mtu(9000).unwrap();
        assert_eq!(tap.mtu().unwrap(), 9000);
        tap.set_up().unwrap();
        assert!(persistent.show().contains(",UP"), "{}", persistent.show());
        assert!(text(persistent.open(1)).contains("busy"));
        tap.set_mtu(1500).unwrap();
    }
    assert!(persistent.show().contains("vnet_hdr on"));
}

#[test]
fn queues_are_attached_one_by_one() {
    let persistent = Persistent::tap(&["multi_queue", "vnet_hdr"]);
    let mut tap = persistent.open(4).unwrap();
    let attached = || {
        fs::read_dir(format!("/sys/class/net/{}/queues", persistent.0))
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().as_encoded_bytes()[0] == b't')
            .count()
    };
    assert_eq!(
        (tap.queue_count(), tap.active_queues(), attached()),
        (4, 4, 4)
    );
    for count in [1, 3, 2, 4, 1] {
        tap.set_active_queues(count).unwrap();
        assert_eq!((tap.active_queues(), attached()), (count, count));
    }
    drop(tap);
    // One pair on the same interface needs the flag too.
    assert_eq!(persistent.reopen(1).queue_count(), 1);
    assert_eq!(persistent.reopen(16).queue_count(), 16);
}

#[test]
fn a_missing_tap_is_named_with_the_command_that_makes_it() {
    let error = text(Tap::open(TapSource::Existing("gw-none".into()), 1));
    assert_eq!(
        error,
        "There is no TAP interface 'gw-none': create it with \
         `ip tuntap add dev gw-none mode tap vnet_hdr`"
    );
    let error = text(Tap::open(TapSource::Existing("gw-none".into()), 2));
    assert!(error.contains("mode tap multi_queue vnet_hdr`"), "{error}");
    assert!(
        sys::interface_index("gw-none").is_none(),
        "it was not created"
    );
}

#[test]
fn a_busy_tap_is_named_with_its_holder() {
    for (flags, queues) in [
        (&["vnet_hdr"][..], 1),
        (&["multi_queue", "vnet_hdr"][..], 2),
    ] {
        let persistent = Persistent::tap(flags);
        let _first = persistent.open(queues).unwrap();
        let error = text(persistent.open(queues));
        let holder = format!("is busy: it is open in process {} (", std::process::id());
        assert!(error.contains(&holder), "{error}");
    }
}

#[test]
fn a_tap_without_the_header_is_refused_and_left_as_it_was() {
    let persistent = Persistent::tap(&[]);
    let error = text(persistent.open(1));
    assert!(error.contains("IFF_VNET_HDR"), "{error}");
    assert!(error.contains("mode tap vnet_hdr`"), "{error}");
    assert!(persistent.show().contains("vnet_hdr off"));
}

#[test]
fn several_pairs_want_a_multi_queue_tap() {
    let persistent = Persistent::tap(&["vnet_hdr"]);
    let error = text(persistent.open(2));
    assert!(error.contains("IFF_MULTI_QUEUE"), "{error}");
    assert!(error.contains("2 queue pairs"), "{error}");
}

#[test]
fn other_interfaces_are_refused() {
    let tun = Persistent::new(&["tun", "vnet_hdr"]);
    assert!(text(tun.open(1)).contains("is not a TAP interface"));
    let error = text(Tap::open(TapSource::Existing("lo".into()), 1));
    assert!(error.contains("'lo' is not a TAP interface"), "{error}");
}

#[test]
fn names_that_no_interface_has_are_refused() {
    for name in [
        "",
        ".",
        "..",
        "a b",
        "tap%d",
        "a/b",
        "a:b",
        "sixteen-bytes-xx",
        "a\0",
    ] {
        let error = text(Tap::open(TapSource::Existing(name.into()), 1));
        assert!(error.contains("cannot be the name"), "{name:?}: {error}");
        let error = text(Tap::open(TapSource::Create(Some(name.into())), 1));
        assert!(error.contains("cannot be the name"), "{name:?}: {error}");
    }
    assert!(check_name("fifteen-bytes-x").is_ok());
}

#[test]
fn a_created_tap_goes_when_it_is_closed() {
    for queues in [1, 2] {
        let tap = Tap::open(TapSource::Create(None), queues).unwrap();
        let name = tap.name().to_owned();
        assert!(name.starts_with("tap"), "{name}");
        let index = sys::interface_index(&name);
        assert!(index.is_some());
        let error = text(Tap::open(TapSource::Create(Some(name.clone())), queues));
        assert!(
            error.contains("an interface of that name exists"),
            "{error}"
        );
        drop(tap);
        // Another test's child may hold the queue until its exec, and the
        // kernel gives a free name out again: the index tells them apart.
        let deadline = Instant::now() + Duration::from_secs(10);
        while sys::interface_index(&name) == index {
            assert!(Instant::now() < deadline, "{name} is still there");
            thread::yield_now();
        }
    }
    let name = unused_name();
    let tap = Tap::open(TapSource::Create(Some(name.clone())), 1).unwrap();
    assert_eq!(tap.name(), name);
}

#[test]
fn queues_that_others_opened_are_taken() {
    let fds = |tap: &Tap| -> Vec<OwnedFd> {
        tap.queues
            .iter()
            .map(|q| q.file.try_clone().unwrap().into())
            .collect()
    };
    let one = Tap::open(TapSource::Create(None), 1).unwrap();
    let two = Tap::open(TapSource::Create(None), 2).unwrap();
    let taken = Tap::open(TapSource::Fds(fds(&two)), 2).unwrap();
    assert_eq!(taken.name(), two.name());

    let error = text(Tap::open(TapSource::Fds(fds(&one)), 2));
    assert_eq!(
        error,
        "2 queue pairs need 2 TAP descriptors, and 1 were given"
    );
    let mixed = fds(&two).into_iter().take(1).chain(fds(&one)).collect();
    let error = text(Tap::open(TapSource::Fds(mixed), 2));
    assert!(error.contains("IFF_MULTI_QUEUE"), "{error}");
    let other = Tap::open(TapSource::Create(None), 2).unwrap();
    let mixed = fds(&two)
        .into_iter()
        .take(1)
        .chain(fds(&other).into_iter().take(1));
    let error = text(Tap::open(TapSource::Fds(mixed.collect()), 2));
    assert!(error.contains("Descriptor number 1 belongs to"), "{error}");
    let null = fs::File::open("/dev/null").unwrap();
    let error = text(Tap::open(TapSource::Fds(vec![null.into()]), 1));
    assert!(error.contains("is not a queue of a TAP"), "{error}");
}

#[test]
fn a_given_queue_without_the_header_is_refused() {
    let file = sys::open_tun().unwrap();
    let flags = i16::try_from(libc::IFF_TAP | libc::IFF_NO_PI).unwrap();
    sys::set_interface(&file, "tap%d", flags).unwrap();
    let error = text(Tap::open(TapSource::Fds(vec![file.into()]), 1));
    assert!(error.contains("IFF_VNET_HDR"), "{error}");
}

#[test]
fn offloads_are_probed_and_set() {
    let tap = Tap::open(TapSource::Create(None), 1).unwrap();
    let segmentation = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    assert!(tap.knows_offloads(segmentation));
    assert!(!tap.knows_offloads(1 << 30));
    tap.set_offloads(segmentation).unwrap();
    assert!(tap.set_offloads(1 << 30).is_err());
}

#[test]
fn the_number_of_queues_has_bounds() {
    for queues in [0, 17] {
        let error = text(Tap::open(TapSource::Create(None), queues));
        assert!(error.contains("1 to 16"), "{error}");
    }
}
