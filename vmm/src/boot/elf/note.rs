//! The note that gives a kernel's PVH entry point.

use linux_loader::elf::Elf64_Phdr;

use super::{ImageFile, KernelDefect};

/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen `xen/include/public/elfnote.h`).
const PHYS32_ENTRY: u32 = 18;
const OWNER: &[u8] = b"Xen\0";
/// Linux has about 500 bytes of notes.
const NOTES_MAX: u64 = 64 << 10;

/// The PVH entry point, if one of the note segments has it.
pub(super) fn pvh_entry<'a>(
    image: &ImageFile,
    segments: impl Iterator<Item = &'a Elf64_Phdr>,
) -> Result<Option<u64>, KernelDefect> {
    const WHAT: &str = "an ELF note segment";
    for segment in segments {
        let size = segment.p_filesz;
        if size > NOTES_MAX {
            return Err(KernelDefect::Unsupported {
                what: "the size of an ELF note segment",
                value: size,
                needed: "at most 65536",
            });
        }
        let mut notes = vec![0; usize::try_from(size).unwrap_or_default()];
        image.read_at(WHAT, &mut notes, segment.p_offset)?;
        if let Some(entry) = find(&notes) {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Walks the notes: three words (name size, descriptor size, type), then name and
/// descriptor, each padded to four bytes. Stops at the first that is cut.
fn find(mut notes: &[u8]) -> Option<u64> {
    loop {
        let name_size = take_u32(&mut notes)?;
        let descriptor_size = take_u32(&mut notes)?;
        let kind = take_u32(&mut notes)?;
        let name = take_padded(&mut notes, name_size)?;
        let descriptor = take_padded(&mut notes, descriptor_size)?;
        if kind == PHYS32_ENTRY && name == OWNER {
            // The address has 32 bits; some linkers write it as 64.
            return match *descriptor {
                [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d]).into()),
                [a, b, c, d, e, f, g, h] => Some(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
                _ => None,
            };
        }
    }
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (word, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*word))
}

fn take_padded<'a>(bytes: &mut &'a [u8], size: u32) -> Option<&'a [u8]> {
    let size = usize::try_from(size).ok()?;
    let field = bytes.get(..size)?;
    // The last note may end without its padding.
    *bytes = bytes
        .get(size.checked_next_multiple_of(4)?..)
        .unwrap_or_default();
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(owner: &[u8], kind: u32, descriptor: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [owner.len(), descriptor.len()] {
            bytes.extend(u32::try_from(word).expect("a short field").to_le_bytes());
        }
        bytes.extend(kind.to_le_bytes());
        for field in [owner, descriptor] {
            bytes.extend(field);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn finds_the_entry_behind_other_notes() {
        let mut notes = note(b"GNU\0", 3, &[7; 20]);
        notes.extend(note(b"Linux\0", 18, &[1; 4]));
        notes.extend(note(OWNER, 6, b"linux\0"));
        notes.extend(note(OWNER, 18, &[0x40, 0, 0x10, 0]));
        assert_eq!(find(&notes), Some(0x10_0040));
        assert_eq!(
            find(&note(OWNER, 18, &[0x40, 0, 0x10, 0, 0, 0, 0, 0])),
            Some(0x10_0040)
        );
    }

    #[test]
    fn cut_notes_end_the_walk() {
        let whole = note(OWNER, 18, &[0x40, 0, 0x10, 0]);
        for length in 0..whole.len() {
            assert_eq!(find(whole.get(..length).unwrap_or_default()), None);
        }
        assert_eq!(find(&[0xff; 64]), None);
    }
}
