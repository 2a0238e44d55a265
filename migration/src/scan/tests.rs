use proptest::prelude::*;

use super::*;

/// Aligned as a page of guest memory is.
#[repr(align(4096))]
struct Page([u8; PAGE_BYTES]);

fn by_byte(page: &[u8; PAGE_BYTES]) -> u64 {
    let mut map = 0;
    for (at, byte) in page.iter().enumerate() {
        map |= u64::from(*byte != 0) << (at / LINE_BYTES);
    }
    map
}

/// Every implementation must say the same as a walk over the bytes.
fn check(page: &Page) {
    let expected = by_byte(&page.0);
    let at = page.0.as_ptr();
    assert_eq!(portable::line_map(&page.0), expected);
    assert_eq!(line_map(&page.0), expected);
    // SAFETY: an aligned page that nobody writes.
    unsafe {
        assert_eq!(portable::page_is_zero(at), expected == 0);
        assert_eq!(page_is_zero(at), expected == 0);
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: as above, and the processor has AVX2.
        unsafe {
            assert_eq!(avx2::page_is_zero(at), expected == 0);
            assert_eq!(avx2::line_map(&page.0), expected);
        }
    }
}

#[test]
fn one_bit_anywhere_is_seen() {
    let mut page = Page([0; PAGE_BYTES]);
    check(&page);
    for at in 0..PAGE_BYTES {
        page.0[at] = 1 << (at % 8);
        check(&page);
        page.0[at] = 0;
    }
    check(&Page([0xff; PAGE_BYTES]));
}

proptest! {
    #[test]
    fn sparse_pages_are_mapped_alike(
        bytes in proptest::collection::vec((0..PAGE_BYTES, any::<u8>()), 0..40),
    ) {
        let mut page = Page([0; PAGE_BYTES]);
        for (at, byte) in bytes {
            page.0[at] = byte;
        }
        check(&page);
    }
}
