//! The device status field (virtio 1.2, 2.1) as a table of legal moves.

/// The driver has noticed the device.
pub const ACKNOWLEDGE: u8 = 1;
/// The driver knows how to drive it.
pub const DRIVER: u8 = 2;
/// The driver is ready.
pub const DRIVER_OK: u8 = 4;
/// Both sides agreed on the features.
pub const FEATURES_OK: u8 = 8;
/// The device gave up and wants a reset.
pub const NEEDS_RESET: u8 = 64;
/// The driver gave up.
pub const FAILED: u8 = 128;

const PROGRESS: u8 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

/// The order of 3.1.1; a driver may take the first two steps at once.
const MOVES: [(u8, u8); 5] = [
    (0, ACKNOWLEDGE),
    (0, ACKNOWLEDGE | DRIVER),
    (ACKNOWLEDGE, ACKNOWLEDGE | DRIVER),
    (ACKNOWLEDGE | DRIVER, ACKNOWLEDGE | DRIVER | FEATURES_OK),
    (ACKNOWLEDGE | DRIVER | FEATURES_OK, PROGRESS),
];

/// The status after the driver wrote `written` (not 0, which is a reset);
/// `None` when that move is illegal and refused.
pub fn step(status: u8, written: u8) -> Option<u8> {
    if status & FAILED != 0 {
        return None;
    }
    if written & FAILED != 0 {
        return Some(status | FAILED);
    }
    let (from, to) = (status & PROGRESS, written & PROGRESS);
    (from == to || MOVES.contains(&(from, to))).then_some(status | to)
}

/// Whether a driver can have brought the status to this value.
pub fn is_reachable(status: u8) -> bool {
    let progress = status & PROGRESS;
    status & !(PROGRESS | NEEDS_RESET | FAILED) == 0
        && (progress == 0 || MOVES.iter().any(|(_, to)| *to == progress))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_goes_step_by_step_and_never_back() {
        assert_eq!(step(0, 1), Some(1));
        assert_eq!(step(1, 3), Some(3));
        assert_eq!(step(3, 0xb), Some(0xb));
        assert_eq!(step(0xb, 0xf), Some(0xf));
        assert_eq!(step(0xf, 0xf), Some(0xf));
        for (from, to) in [
            (0, 2),
            (0, 0xf),
            (1, 0xb),
            (3, 7),
            (3, 0xf),
            (0xf, 0xb),
            (3, 1),
        ] {
            assert_eq!(step(from, to), None, "{from:#x} to {to:#x}");
        }
    }

    #[test]
    fn after_a_failure_only_a_reset_helps() {
        assert_eq!(step(3, 0x83), Some(0x83));
        assert_eq!(step(0x83, 0x8b), None);
        assert_eq!(step(0x4b, 0xf), Some(0x4f), "the device keeps its own bit");
        assert_eq!(step(0xb, 0x4b), Some(0xb), "and the driver cannot set it");
    }

    #[test]
    fn only_values_on_the_way_are_reachable() {
        let reachable: Vec<u8> = (0..=0x3f).filter(|s| is_reachable(*s)).collect();
        assert_eq!(reachable, [0, 1, 3, 0xb, 0xf]);
        assert!(is_reachable(0xcf));
    }
}
