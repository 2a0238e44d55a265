//! Every access to the serial port's registers, with any saved state before it
//! and a save and restore in between.

#![no_main]

use std::io;
use std::sync::{Arc, OnceLock};

use arbitrary::Arbitrary;
use godwit_devices::bus::{Action, BusDevice};
use godwit_devices::device_loop::DeviceLoop;
use godwit_devices::irq::IrqLine;
use godwit_devices::serial::{Backend, Serial, SerialHandle, SerialSetup, SerialV1};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Act {
    Read { offset: u8, length: u8 },
    Write { offset: u8, value: u8 },
    Wide { offset: u64, data: Vec<u8> },
    Move,
}

#[derive(Arbitrary, Debug)]
struct Input {
    registers: [u8; 9],
    received: Vec<u8>,
    acts: Vec<Act>,
}

#[derive(Debug)]
struct Unheard;

impl IrqLine for Unheard {
    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

fn device_loop() -> &'static DeviceLoop {
    static LOOP: OnceLock<DeviceLoop> = OnceLock::new();
    LOOP.get_or_init(|| DeviceLoop::spawn("fuzz", || ()).unwrap())
}

fn serial(state: SerialV1) -> Option<(Arc<Serial>, SerialHandle)> {
    let too_long = state.received.len() > 64;
    let made = Serial::new(SerialSetup {
        backend: &Backend::Null,
        handed: Vec::new(),
        irq: Arc::new(Unheard),
        device_loop: &device_loop().handle(),
        escape: Box::new(|_| ()),
        state,
    });
    assert_eq!(made.is_err(), too_long);
    made.ok()
}

fuzz_target!(|input: Input| {
    let [a, b, c, d, e, f, g, h, i] = input.registers;
    let state = SerialV1 {
        divisor_low: a,
        divisor_high: b,
        interrupt_enable: c,
        interrupt_identification: d,
        line_control: e,
        line_status: f,
        modem_control: g,
        modem_status: h,
        scratch: i,
        received: input.received,
    };
    let Some((mut port, mut _handle)) = serial(state) else {
        return;
    };
    for act in input.acts {
        match act {
            Act::Read { offset, length } => {
                let mut data = vec![0; usize::from(length % 9)];
                port.read(offset.into(), &mut data);
                assert!(data.iter().skip(1).all(|&byte| byte == 0xff));
            }
            Act::Write { offset, value } => {
                assert_eq!(port.write(offset.into(), &[value]), Action::Continue);
            }
            Act::Wide { offset, mut data } => {
                data.truncate(8);
                assert_eq!(port.write(offset, &data), Action::Continue);
                port.read(offset, &mut data);
            }
            Act::Move => {
                let saved = port.save();
                assert!(saved.received.len() <= 64);
                (port, _handle) = serial(saved.clone()).expect("what was saved is valid");
                assert_eq!(port.save(), saved);
            }
        }
    }
});
