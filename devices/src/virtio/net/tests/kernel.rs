//! The kernel's own vhost-net, where it is there: real packets through real
//! rings in our memory, with this test as the driver.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};

use super::*;

/// An EtherType for experiments (IEEE 802), so that what the host's own stack
/// sends on the interface is told apart.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
const HEADER: usize = 12;
const PATIENCE: Duration = Duration::from_secs(20);

/// A raw socket on the tap: the network on the other side.
pub(super) struct Wire(fs::File);

impl Wire {
    fn new(interface: &str) -> Self {
        Self::of(interface, ETHER_TYPE)
    }

    /// Hears frames of one EtherType only.
    pub(super) fn of(interface: &str, ether_type: [u8; 2]) -> Self {
        let index = nix::net::if_::if_nametoindex(interface).unwrap();
        // SAFETY: no memory is passed.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                i32::from(u16::from_ne_bytes(ether_type)),
            )
        };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let socket = fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
            sll_protocol: u16::from_ne_bytes(ether_type),
            sll_ifindex: i32::try_from(index).unwrap(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let size = u32::try_from(size_of_val(&address)).unwrap();
        // SAFETY: the kernel reads the address, of the size given, during the call.
        let bound = unsafe { libc::bind(fd, (&raw const address).cast(), size) };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        Self(socket)
    }

    fn send(&mut self, number: u8) {
        self.0.write_all(&frame(number)).unwrap();
    }

    /// A frame that is there already.
    pub(super) fn heard(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 2048];
        let length = self.0.read(&mut bytes).ok()?;
        bytes.truncate(length);
        Some(bytes)
    }

    pub(super) fn receive(&mut self) -> Vec<u8> {
        wait("a frame on the tap", || self.heard())
    }
}

fn frame(number: u8) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend(MAC);
    bytes.extend(ETHER_TYPE);
    bytes.extend([number; 100]);
    bytes
}

fn wait<T>(what: &str, mut try_it: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = try_it() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The driver's half of a data ring: one descriptor a packet, slot by slot.
struct Half<'a> {
    memory: &'a GuestRam,
    at: u64,
    buffers: u64,
    sent: u16,
    flags: u16,
}

impl<'a> Half<'a> {
    fn new(memory: &'a GuestRam, index: u16, flags: u16) -> Self {
        Self {
            memory,
            at: 0x2000 + 0x1000 * u64::from(index),
            buffers: 0x2_0000 + 0x1_0000 * u64::from(index),
            sent: 0,
            flags,
        }
    }

    fn store<T: vm_memory::ByteValued>(&self, at: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn buffer(&self, slot: u16) -> GuestAddress {
        GuestAddress(self.buffers + 0x800 * u64::from(slot))
    }

    fn offer(&mut self, packet: &[u8]) {
        let slot = self.sent % QUEUE;
        let buffer = self.buffer(slot);
        self.memory.write_slice(packet, buffer).unwrap();
        let descriptor = self.at + 16 * u64::from(slot);
        self.store(descriptor, buffer.0);
        self.store(descriptor + 8, u32::try_from(packet.len()).unwrap());
        self.store(descriptor + 12, self.flags);
        self.store(self.at + 0x104 + 2 * u64::from(slot), slot);
        self.sent += 1;
        self.memory
            .store(self.sent, GuestAddress(self.at + 0x102), Ordering::Release)
            .unwrap();
    }

    fn used(&self) -> u16 {
        let index = GuestAddress(self.at + 0x202);
        self.memory.load(index, Ordering::Acquire).unwrap()
    }

    /// Length and bytes of the packet that was used as number `count`.
    fn packet(&self, count: u16) -> Vec<u8> {
        let element = self.at + 0x204 + 8 * u64::from(count % QUEUE);
        let [slot, length]: [u32; 2] = self.memory.read_obj(GuestAddress(element)).unwrap();
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        let buffer = self.buffer(u16::try_from(slot).unwrap());
        self.memory.read_slice(&mut bytes, buffer).unwrap();
        bytes
    }
}

fn activation(memory: &Arc<GuestRam>, positions: &[RingPosition]) -> Activation {
    let mut rings: Vec<_> = (0..4)
        .map(|i| ring(i, 0x2000 + 0x1000 * u64::from(i)))
        .collect();
    rings.push(ring(4, CONTROL_AT));
    for (ring, start) in rings.iter_mut().zip(positions) {
        ring.start = *start;
    }
    Activation {
        memory: memory.clone(),
        features: 1 << 32 | 1 << 22 | 1 << 17,
        rings,
        config_change: Arc::<super::device::Notified>::default(),
    }
}

fn kicks(activation: &Activation) -> Vec<vmm_sys_util::eventfd::EventFd> {
    let kicks = activation.rings.iter().map(|r| r.kick.try_clone());
    kicks.collect::<Result<_, _>>().unwrap()
}

/// Everything in one test: it is one device's life, and the workers of two
/// would be counted together.
#[test]
fn the_kernels_vhost_net_moves_packets_or_is_named() {
    let device_loop = DeviceLoop::spawn("loop", || ()).unwrap();
    let memory = memory();
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let last = (0..CpuSet::count())
        .rfind(|cpu| allowed.is_set(*cpu).unwrap())
        .unwrap();
    let mut cpus = CpuSet::new();
    cpus.set(last).unwrap();
    let config = NetDeviceConfig {
        worker_cpus: Some(cpus),
        ..config(2)
    };
    let mut net = match Net::new(config, memory.clone(), device_loop.handle()) {
        Ok(net) => net,
        Err(error) => {
            let text = error.reason.to_string();
            assert!(text.contains("/dev/vhost-net"), "{text}");
            let there = fs::File::open("/dev/vhost-net").is_ok();
            assert!(!there, "it is there: {error:?}");
            return;
        }
    };

    assert_eq!(net.worker_threads().len(), 2);
    for worker in net.worker_threads() {
        assert_eq!(sched_getaffinity(*worker).unwrap(), cpus);
    }
    let mut wire = Wire::new(&net.tap_name());
    let (mut rx, mut tx) = (Half::new(&memory, 0, WRITE), Half::new(&memory, 1, 0));
    for _ in 0..QUEUE {
        rx.offer(&[0; 0x800]);
    }
    let mut received = 0;
    // Frames of the host's own stack come in between.
    let mut receive = |rx: &mut Half, number: u8| loop {
        let bytes = wait("a frame in the receive ring", || {
            (rx.used() != received).then(|| rx.packet(received))
        });
        received += 1;
        if bytes[HEADER..] == frame(number) {
            return;
        }
        assert_ne!(bytes[HEADER + 12..HEADER + 14], ETHER_TYPE, "{bytes:?}");
    };
    let packet = |number| [&[0; HEADER][..], &frame(number)].concat();

    let first = activation(&memory, &[]);
    let ring_kicks = kicks(&first);
    let call = first.rings[1].call.try_clone().unwrap();
    net.activate(first).unwrap();
    for number in 1..=5 {
        tx.offer(&packet(number));
        ring_kicks[1].write(1).unwrap();
        assert_eq!(wire.receive(), frame(number));
        wait("the used index", || {
            (tx.used() == u16::from(number)).then_some(())
        });
        wire.send(number + 100);
        receive(&mut rx, number + 100);
    }
    wait("the interrupt", || call.read().ok());

    // The dirty log, twice, under a running device: the received packet's
    // buffer and both used rings.
    for round in 0..2u8 {
        net.start_dirty_log().unwrap();
        let number = 10 + round;
        tx.offer(&packet(number));
        ring_kicks[1].write(1).unwrap();
        assert_eq!(wire.receive(), frame(number));
        wait("the used index", || {
            (tx.used() == 6 + u16::from(round)).then_some(())
        });
        wire.send(number + 100);
        receive(&mut rx, number + 100);
        let mut dirty = Vec::new();
        net.sync_dirty_log(&mut |address, bits| {
            let bits = (0..64).filter(|bit| bits >> bit & 1 == 1);
            dirty.extend(bits.map(|bit| address.0 + bit * 4096));
        });
        let buffers = rx.buffers..rx.buffers + 0x800 * u64::from(QUEUE);
        assert!(
            dirty.iter().any(|page| buffers.contains(page)),
            "{dirty:x?}"
        );
        for used in [0x2000, 0x3000] {
            assert!(dirty.contains(&used), "{used:#x} is not in {dirty:x?}");
        }
        net.stop_dirty_log();
        net.sync_dirty_log(&mut |_, _| panic!("nobody logs"));
    }

    // The driver turns the second pair on, and the first one goes on.
    let mut driver = Driver {
        memory: memory.clone(),
        sent: 0,
    };
    driver.send(&[&[4, 0, 2, 0]]);
    ring_kicks[4].write(1).unwrap();
    wait("the answer", || (driver.used() == 1).then_some(()));
    assert_eq!(
        (driver.status(), net.control().tap().active_queues()),
        (0, 2)
    );
    let mut second = Half::new(&memory, 3, 0);
    second.offer(&packet(50));
    ring_kicks[3].write(1).unwrap();
    assert_eq!(wire.receive(), frame(50));
    driver.send(&[&[4, 0, 1, 0]]);
    ring_kicks[4].write(1).unwrap();
    wait("the answer", || (driver.used() == 2).then_some(()));

    // A pause: a packet made available meanwhile is sent afterwards, although
    // nobody notifies again.
    let positions = net.stop().unwrap();
    let at = |count| RingPosition {
        next_avail: count,
        next_used: count,
    };
    assert_eq!(positions[1], at(7));
    assert_eq!(positions[3], at(1));
    assert_eq!(positions[4], at(2));
    assert_eq!(positions[0], at(rx.used()));
    tx.offer(&packet(6));
    ring_kicks[1].write(1).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(tx.used(), 7, "a stopped ring is not touched");
    let again = activation(&memory, &positions);
    net.activate(again).unwrap();
    assert_eq!(wire.receive(), frame(6));
    wire.send(106);
    receive(&mut rx, 106);
    assert_eq!(net.stop().unwrap()[1], at(8));

    let workers = net.worker_threads().to_vec();
    let name = net.tap_name();
    drop(net);
    wait("the end of the workers", || {
        let gone = |pid: &Pid| !fs::exists(format!("/proc/{pid}")).unwrap();
        workers.iter().all(gone).then_some(())
    });
    assert!(nix::net::if_::if_nametoindex(&*name).is_err());
}
