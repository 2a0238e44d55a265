//! Every saved struct as its first version wrote it: a change that does not
//! load these bytes any more needs a second version.

use crate::hotplug::HotPlugV1;
use crate::pci::PciRootV1;
use crate::pci::msix::VectorV1;
use crate::serial::SerialV1;
use crate::virtio::DeviceV1;
use crate::virtio::block::BlockV1;
use crate::virtio::net::NetV1;
use crate::virtio::pci::{QueueV1, VirtioPciV1};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).unwrap();
        u8::from_str_radix(text, 16).unwrap()
    };
    digits.chunks(2).map(pair).collect()
}

fn loads<T>(text: &str, expected: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug + PartialEq,
{
    let bytes = hex(text);
    let (value, rest) = postcard::take_from_bytes::<T>(&bytes).unwrap();
    assert_eq!((&value, rest), (expected, &[][..]));
    let written = postcard::to_allocvec(expected).unwrap();
    assert_eq!(written, bytes, "what is written today: {written:02x?}");
    for end in 0..bytes.len() {
        assert!(postcard::from_bytes::<T>(&bytes[..end]).is_err());
    }
}

#[test]
fn a_function_without_device_state() {
    let state = VirtioPciV1 {
        config: vec![0xf4, 0x1a, 0x41, 0x10],
        vectors: vec![
            VectorV1 {
                address: 0xfee0_1000,
                data: 0x41,
                masked: false,
                pending: true,
            },
            VectorV1 {
                address: 0,
                data: 0,
                masked: true,
                pending: false,
            },
        ],
        accepted: 1 << 32 | 1 << 29,
        device_feature_select: 1,
        driver_feature_select: 0,
        status: 0xf,
        config_vector: 0xffff,
        generation: 3,
        isr: 2,
        queue_select: 2,
        queues: vec![QueueV1 {
            size: 256,
            vector: 1,
            enabled: true,
            desc: 0x1000,
            driver: 0x2000,
            device: 0x3000,
            next_avail: 0xfffe,
            next_used: 0xfffd,
        }],
        device: DeviceV1::Stateless,
    };
    loads(
        "04 f41a4110  02 80a080f70f 41 00 01  00 00 01 00  8080808012 01 00 0f ffff03 03 02 02
         01 8002 01 01 8020 8040 8060 feff03 fdff03  00",
        &state,
    );
}

#[test]
fn what_each_device_keeps() {
    loads("00", &DeviceV1::Stateless);
    let net = NetV1 {
        mac: [0x52, 0x54, 0, 1, 2, 3],
        active_pairs: 4,
        guest_offloads: 1 << 1 | 1 << 7,
        announce: true,
        mtu: 9000,
    };
    loads("01 525400010203 04 8201 01 a846", &DeviceV1::Net(net));
    let block = BlockV1 {
        sectors: 2048,
        block: 512,
        writeback: true,
    };
    loads("02 8010 8004 01", &DeviceV1::Block(block));
}

#[test]
fn the_root_its_hot_plug_and_a_serial_port() {
    loads(
        "808001 02",
        &HotPlugV1 {
            up: 1 << 14,
            down: 2,
        },
    );
    let root = PciRootV1 {
        address: 0x8000_0804,
        reset: 2,
        bridge: vec![0x36, 0x1b],
    };
    loads("8490808008 02 02 361b", &root);
    let serial = SerialV1 {
        divisor_low: 1,
        line_status: 0x61,
        received: b"ok".to_vec(),
        ..SerialV1::default()
    };
    loads("01 00 00 01 03 61 08 b0 00 02 6f6b", &serial);
}
