//! What tells a network where a guest is now: a frame from its MAC address, by
//! which switches learn the port. RARP asks for nothing that anybody answers
//! today, and so does no harm (RFC 903).

/// Bytes of an Ethernet frame without check sequence, at least.
const FRAME: usize = 60;

const ETHER_TYPE: [u8; 2] = [0x80, 0x35];
/// Ethernet, IPv4, and the lengths of their addresses.
const KINDS: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// "Request reverse".
const OPERATION: [u8; 2] = [0, 3];

/// The broadcast for `mac`.
pub(super) fn frame(mac: [u8; 6]) -> [u8; FRAME] {
    const NO_ADDRESS: [u8; 4] = [0; 4];
    let mut frame = [0; FRAME];
    let fields: [&[u8]; 9] = [
        &[0xff; 6],
        &mac,
        &ETHER_TYPE,
        &KINDS,
        &OPERATION,
        // Sender and target: both the guest.
        &mac,
        &NO_ADDRESS,
        &mac,
        &NO_ADDRESS,
    ];
    let bytes = fields.into_iter().flatten();
    frame
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_what_rfc_903_draws() {
        let mac = [0x52, 0x54, 0, 1, 2, 3];
        let frame = frame(mac);
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[6..12], mac);
        assert_eq!(frame[12..22], [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
        assert_eq!((&frame[22..28], &frame[32..38]), (&mac[..], &mac[..]));
        assert_eq!((&frame[28..32], &frame[38..]), (&[0; 4][..], &[0; 22][..]));
    }
}
