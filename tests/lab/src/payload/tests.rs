use super::*;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("godwit-payload-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../resources/payload")
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

#[test]
fn the_images_are_what_the_protocols_ask_for() {
    let images = build().unwrap();

    let bzimage = fs::read(&images.bzimage).unwrap();
    assert_eq!(u16_at(&bzimage, 0x1fe), 0xaa55);
    assert_eq!(&bzimage[0x202..0x206], b"HdrS");
    assert!(
        u16_at(&bzimage, 0x206) >= 0x20c,
        "the 64-bit entry came with protocol 2.12"
    );
    assert_eq!(u16_at(&bzimage, 0x236) & 1, 1, "XLF_KERNEL_64");
    assert_eq!(bzimage[0x211] & 1, 1, "LOADED_HIGH");
    let image = &bzimage[(usize::from(bzimage[0x1f1]) + 1) * 512..];
    assert_eq!(
        u32_at(&bzimage, 0x1f4) as usize,
        image.len().div_ceil(16),
        "syssize"
    );
    assert!(
        u32_at(&bzimage, 0x260) as usize > image.len(),
        "init_size covers unused memory too"
    );

    let elf = fs::read(&images.elf_linux).unwrap();
    assert_eq!(&elf[..4], b"\x7fELF");
    let note = [4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0];
    let has_note = |bytes: &[u8]| bytes.windows(note.len()).any(|window| window == note);
    assert!(!has_note(&elf));
    assert!(has_note(&fs::read(&images.elf_pvh).unwrap()));
}

#[test]
fn a_changed_source_builds_anew_and_an_unchanged_one_does_not() {
    let (copy, out) = (folder("sources"), folder("out"));
    for file in files(&sources()).unwrap() {
        fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    let images = build_in(&copy, &out).unwrap();
    let built = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let first = built(&images.elf_pvh);
    build_in(&copy, &out).unwrap();
    assert_eq!(built(&images.elf_pvh), first);

    let main = copy.join("main.c");
    let text = fs::read_to_string(&main).unwrap();
    fs::write(&main, format!("{text}\n/* changed */\n")).unwrap();
    build_in(&copy, &out).unwrap();
    assert_ne!(built(&images.elf_pvh), first);

    fs::write(&main, "not C").unwrap();
    let error = build_in(&copy, &out).unwrap_err();
    assert!(matches!(error, PayloadError::Build { .. }), "{error}");
    fs::write(&main, text).unwrap();
    build_in(&copy, &out).unwrap();
    fs::remove_dir_all(copy).unwrap();
    fs::remove_dir_all(out).unwrap();
}
