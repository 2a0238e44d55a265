//! A back end that writes down what it is asked, and what [`Rings`] asks it.

use std::ops::Deref;
use std::os::fd::RawFd;
use std::sync::Mutex;

use vhost::{VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};

use super::*;

/// Records requests in order; one of them can be made to fail.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fake(Arc<Record>);

#[derive(Debug, Default)]
pub(crate) struct Record {
    pub calls: Mutex<Vec<String>>,
    pub fail: Mutex<Option<&'static str>>,
    /// What `get_vring_base` answers for each ring.
    pub bases: Mutex<[u32; 2]>,
}

/// All that a vhost back end offers here, bit 27 included.
pub(crate) const FEATURES: u64 = 0x3_3d00_8000;

impl Deref for Fake {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.0
    }
}

impl Record {
    fn call(&self, text: String) -> vhost::Result<()> {
        let failed = self
            .fail
            .lock()
            .unwrap()
            .is_some_and(|f| text.starts_with(f));
        self.calls.lock().unwrap().push(text);
        if failed {
            return Err(vhost::Error::InvalidOperation);
        }
        Ok(())
    }

    pub(crate) fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl VhostBackend for Fake {
    fn get_features(&self) -> vhost::Result<u64> {
        self.call("get_features".into()).map(|()| FEATURES)
    }
    fn set_features(&self, features: u64) -> vhost::Result<()> {
        self.call(format!("set_features {features:#x}"))
    }
    fn set_owner(&self) -> vhost::Result<()> {
        self.call("set_owner".into())
    }
    fn reset_owner(&self) -> vhost::Result<()> {
        self.call("reset_owner".into())
    }
    fn set_mem_table(
        &self,
        regions: &[VhostUserMemoryRegionInfo],
    ) -> vhost::Result<Option<Vec<u64>>> {
        let regions: Vec<_> = regions
            .iter()
            .map(|r| format!("{:#x}+{:#x}", r.guest_phys_addr, r.memory_size))
            .collect();
        self.call(format!("set_mem_table {}", regions.join(" ")))
            .map(|()| None)
    }
    fn set_log_base(&self, _: u64, _: Option<VhostUserDirtyLogRegion>) -> vhost::Result<()> {
        self.call("set_log_base".into())
    }
    fn set_log_fd(&self, _: RawFd) -> vhost::Result<()> {
        self.call("set_log_fd".into())
    }
    fn set_vring_num(&self, ring: usize, num: u16) -> vhost::Result<()> {
        self.call(format!("num {ring} {num}"))
    }
    fn set_vring_addr(&self, ring: usize, c: &VringConfigData) -> vhost::Result<()> {
        let (desc, avail, used) = (c.desc_table_addr, c.avail_ring_addr, c.used_ring_addr);
        let log = if c.flags & 1 == 1 {
            format!(" log {:#x}", c.get_log_addr())
        } else {
            String::new()
        };
        self.call(format!("addr {ring} {desc:#x} {avail:#x} {used:#x}{log}"))
    }
    fn set_vring_base(&self, ring: usize, base: u16) -> vhost::Result<()> {
        self.bases.lock().unwrap()[ring] = base.into();
        self.call(format!("base {ring} {base}"))
    }
    fn get_vring_base(&self, ring: usize) -> vhost::Result<u32> {
        self.call(format!("get_base {ring}"))
            .map(|()| self.bases.lock().unwrap()[ring])
    }
    fn set_vring_call(&self, ring: usize, _: &EventFd) -> vhost::Result<()> {
        self.call(format!("call {ring}"))
    }
    fn set_vring_kick(&self, ring: usize, _: &EventFd) -> vhost::Result<()> {
        self.call(format!("kick {ring}"))
    }
    fn set_vring_err(&self, ring: usize, fd: &EventFd) -> vhost::Result<()> {
        // A driver's fault on a ring of this size shows at once.
        self.call(format!("err {ring}"))?;
        if *self.fail.lock().unwrap() == Some("broken") {
            fd.write(1).unwrap();
        }
        Ok(())
    }
}

impl RingBackend for Fake {
    /// Told apart from guest addresses by an offset.
    fn ring_address(&self, _: &GuestRam, address: GuestAddress) -> vhost::Result<u64> {
        Ok(address.0 + 0x7000_0000)
    }
    fn enable(&self, ring: usize) -> vhost::Result<()> {
        self.call(format!("enable {ring}"))
    }
    fn disable(&self, ring: usize) -> vhost::Result<()> {
        self.call(format!("disable {ring}"))
    }
    fn set_log(&self, log: &SharedLog) -> vhost::Result<()> {
        self.call(format!("set_log {:#x}", log.size()))
    }
}

/// Two regions that touch: 64 KiB from 0, and 960 KiB after it.
pub(crate) fn memory() -> Arc<GuestRam> {
    let ranges = [
        (GuestAddress(0), 0x1_0000),
        (GuestAddress(0x1_0000), 0xf_0000),
    ];
    Arc::new(GuestRam::from_ranges(&ranges).unwrap())
}

/// A ring of 16 entries in the page at `at`.
pub(crate) fn ring(index: u16, at: u64) -> Ring {
    Ring {
        index,
        size: 16,
        desc: GuestAddress(at),
        avail: GuestAddress(at + 0x100),
        used: GuestAddress(at + 0x200),
        start: RingPosition::default(),
        kick: EventFd::new(EFD_NONBLOCK).unwrap(),
        call: EventFd::new(EFD_NONBLOCK).unwrap(),
    }
}

fn open() -> (Fake, Rings<Fake>) {
    let fake = Fake::default();
    let rings = Rings::open(fake.clone(), memory()).unwrap();
    (fake, rings)
}

#[test]
fn rings_are_started_in_the_order_that_vhost_wants() {
    let (fake, mut rings) = open();
    assert_eq!(rings.features(), FEATURES);
    assert_eq!(
        fake.taken(),
        [
            "set_owner",
            "get_features",
            "set_mem_table 0x0+0x10000 0x10000+0xf0000"
        ]
    );
    let (mut rx, tx) = (ring(4, 0x2000), ring(5, 0x3000));
    rx.start = RingPosition {
        next_avail: 65535,
        next_used: 65530,
    };
    rings.start(0x1_0000_8000, &[(0, &rx), (1, &tx)]).unwrap();
    let of_ring = |r: u32, base: u32, at: u64| {
        vec![
            format!("num {r} 16"),
            format!("base {r} {base}"),
            format!("addr {r} {:#x} {:#x} {:#x}", at, at + 0x100, at + 0x200),
            format!("err {r}"),
            format!("call {r}"),
            format!("kick {r}"),
        ]
    };
    let mut wanted = vec![
        "set_features 0x100008000".to_owned(),
        "set_mem_table 0x0+0x10000 0x10000+0xf0000".to_owned(),
    ];
    wanted.extend(of_ring(0, 65535, 0x7000_2000));
    wanted.extend(of_ring(1, 0, 0x7000_3000));
    // No ring is touched before all are set up.
    wanted.extend(["enable 0".to_owned(), "enable 1".to_owned()]);
    assert_eq!(fake.taken(), wanted);
    // What was available before is looked at.
    assert_eq!((rx.kick.read().unwrap(), tx.kick.read().unwrap()), (1, 1));
    assert_eq!(
        rings.error_fds().map(|(r, _)| r).collect::<Vec<_>>(),
        [0, 1]
    );
}

#[test]
fn what_was_prepared_is_only_enabled() {
    let (fake, mut rings) = open();
    let (rx, tx) = (ring(0, 0x2000), ring(1, 0x3000));
    rings.prepare(7, &[(0, &rx), (1, &tx)]).unwrap();
    assert!(!fake.taken().iter().any(|call| call.starts_with("enable")));
    rings.start(7, &[(0, &rx), (1, &tx)]).unwrap();
    assert_eq!(fake.taken(), ["enable 0", "enable 1"]);
    rings.stop().unwrap();
    // Once only, and not for rings that stand elsewhere, with other features, or
    // after a change of the log.
    let others: [fn(&mut Rings<Fake>, &mut Ring) -> u64; 6] = [
        |_, ring| {
            ring.start.next_avail = 1;
            7
        },
        |_, ring| {
            ring.desc = GuestAddress(0x4000);
            7
        },
        |_, _| 6,
        |rings, _| {
            let log = SharedLog::new(&rings.memory).unwrap();
            rings.start_log(&Arc::new(log)).unwrap();
            7
        },
        |rings, _| {
            rings.forget();
            7
        },
        // As after a start that failed elsewhere.
        |rings, _| {
            rings.stop().unwrap();
            7
        },
    ];
    for change in others {
        let mut rx = ring(0, 0x2000);
        rings.prepare(7, &[(0, &rx)]).unwrap();
        let features = change(&mut rings, &mut rx);
        fake.taken();
        rings.start(features, &[(0, &rx)]).unwrap();
        assert!(fake.taken().contains(&"num 0 16".to_owned()));
        rings.stop().unwrap();
    }
}

#[test]
fn stopping_tells_where_each_ring_stands() {
    let (fake, mut rings) = open();
    assert_eq!(rings.stop().unwrap(), [], "nothing is served");
    let (rx, tx) = (ring(0, 0x2000), ring(1, 0x3000));
    rings.start(0, &[(1, &tx), (0, &rx)]).unwrap();
    *fake.bases.lock().unwrap() = [7, 0x8000_0009];
    rings.memory.write_obj(5u16, GuestAddress(0x2202)).unwrap();
    rings.memory.write_obj(9u16, GuestAddress(0x3202)).unwrap();
    fake.taken();
    let at = |next_avail, next_used| RingPosition {
        next_avail,
        next_used,
    };
    assert_eq!(rings.stop().unwrap(), [at(9, 9), at(7, 5)]);
    let calls = ["disable 1", "disable 0", "get_base 1", "get_base 0"];
    assert_eq!(fake.taken(), calls);
    assert_eq!(rings.stop().unwrap(), []);
    assert!(fake.taken().is_empty());
}

#[test]
fn a_refused_request_is_named_and_leaves_no_ring_served() {
    let cases = [
        ("set_features", "take the features"),
        ("num 1", "set the size of ring 1"),
        ("base 1", "set the position of ring 1"),
        ("addr 1", "set the addresses of ring 1"),
        ("err 1", "take the error eventfd of ring 1"),
        ("call 1", "take the call eventfd of ring 1"),
        ("kick 1", "take the kick eventfd of ring 1"),
        ("enable 1", "start the service of ring 1"),
    ];
    for (fail, text) in cases {
        let (fake, mut rings) = open();
        *fake.fail.lock().unwrap() = Some(fail);
        let (rx, tx) = (ring(0, 0x2000), ring(1, 0x3000));
        let error = rings.start(0, &[(0, &rx), (1, &tx)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("The vhost back end refused to {text}")
        );
        let calls = fake.taken();
        assert_eq!(
            calls.contains(&"enable 0".to_owned()),
            calls.last().unwrap() == "disable 0",
            "{calls:?}"
        );
        *fake.fail.lock().unwrap() = None;
        assert_eq!(rings.stop().unwrap(), []);
        rings.start(0, &[(0, &rx)]).unwrap();
    }
}

#[test]
fn a_position_that_cannot_be_learnt_stops_the_other_rings_too() {
    for (fail, text) in [
        ("get_base 0", "tell the position of ring 0"),
        ("disable 0", "stop the service of ring 0"),
    ] {
        let (fake, mut rings) = open();
        let (rx, tx) = (ring(0, 0x2000), ring(1, 0x3000));
        rings.start(0, &[(0, &rx), (1, &tx)]).unwrap();
        *fake.fail.lock().unwrap() = Some(fail);
        let error = rings.stop().unwrap_err().to_string();
        assert!(error.ends_with(text), "{error}");
        assert!(fake.taken().contains(&"disable 1".to_owned()));
    }
}

#[test]
fn no_part_of_a_ring_reaches_beyond_its_region() {
    let (fake, mut rings) = open();
    fake.taken();
    // 16 descriptors are 256 bytes, the available ring 38, the used ring 134.
    let place = |part: u8, at: u64| {
        let mut ring = ring(0, 0x2000);
        match part {
            0 => ring.desc = GuestAddress(at),
            1 => ring.avail = GuestAddress(at),
            _ => ring.used = GuestAddress(at),
        }
        ring
    };
    for (part, size) in [(0, 256), (1, 38), (2, 134)] {
        for end in [0x1_0000, 0x10_0000] {
            let last = end - size;
            rings.start(0, &[(0, &place(part, last))]).unwrap();
            rings.stop().unwrap();
            fake.taken();
            let error = rings.start(0, &[(0, &place(part, last + 1))]).unwrap_err();
            assert!(
                matches!(error, VhostError::Layout { ring: 0, .. }),
                "{error}"
            );
            assert!(!fake.taken().iter().any(|c| c.starts_with("addr")));
        }
    }
    assert!(rings.start(0, &[(0, &place(2, u64::MAX))]).is_err());
}

#[test]
fn a_log_comes_and_goes_while_rings_are_served() {
    let (fake, mut rings) = open();
    let log = Arc::new(SharedLog::new(rings.memory()).unwrap());
    let (rx, tx) = (ring(0, 0x2000), ring(1, 0x3000));
    rings.start(0x8000, &[(0, &rx), (1, &tx)]).unwrap();
    fake.taken();
    let addresses = |ring: u64, log: &str| {
        let at = 0x7000_2000 + 0x1000 * ring;
        format!(
            "addr {ring} {at:#x} {:#x} {:#x}{log}",
            at + 0x100,
            at + 0x200
        )
    };
    // A second migration is as the first.
    for _ in 0..2 {
        rings.start_log(&log).unwrap();
        let calls = [
            "set_log 0x1000".to_owned(),
            "set_features 0x4008000".to_owned(),
            addresses(0, " log 0x2200"),
            addresses(1, " log 0x3200"),
        ];
        assert_eq!(fake.taken(), calls);
        // A pause and a driver that resets keep the log.
        rings.stop().unwrap();
        rings.start(0, &[(1, &tx)]).unwrap();
        let calls = fake.taken();
        assert!(calls.contains(&"set_features 0x4000000".to_owned()));
        assert!(calls.contains(&addresses(1, " log 0x3200")));
        rings.stop_log().unwrap();
        let calls = ["set_features 0x0".to_owned(), addresses(1, "")];
        assert_eq!(fake.taken(), calls);
        rings.stop_log().unwrap();
        assert!(fake.taken().is_empty());
        rings.stop().unwrap();
        rings.start(0x8000, &[(0, &rx), (1, &tx)]).unwrap();
        fake.taken();
    }
    rings.stop().unwrap();
    fake.taken();
    rings.start_log(&log).unwrap();
    assert_eq!(fake.taken(), ["set_log 0x1000"], "the next start does it");
}

#[test]
fn a_log_that_is_refused_is_not_kept_and_one_that_may_be_written_is() {
    for fail in ["set_log", "set_features", "addr 0"] {
        let (fake, mut rings) = open();
        let log = Arc::new(SharedLog::new(rings.memory()).unwrap());
        let rx = ring(0, 0x2000);
        rings.start(0, &[(0, &rx)]).unwrap();
        *fake.fail.lock().unwrap() = Some(fail);
        rings.start_log(&log).unwrap_err();
        *fake.fail.lock().unwrap() = None;
        // Nobody knows what the back end does now: the memory stays.
        assert_eq!(
            Arc::strong_count(&log),
            if fail == "set_log" { 1 } else { 2 }
        );
        rings.stop_log().unwrap();
        assert_eq!(Arc::strong_count(&log), 1);
    }
}
