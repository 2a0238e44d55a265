//! What a disk is made from, and says of itself.

use super::*;

#[test]
fn the_configuration_space_says_what_the_disk_is() {
    let image = Scratch::image("config");
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    let block = Block::new(
        BlockConfig {
            num_queues: 4,
            ..config(&image.0)
        },
        device_loop.handle(),
    )
    .unwrap();
    let mut space = [0xff; 64];
    block.read_config(0, &mut space);
    assert_eq!(space[..8], 2048u64.to_le_bytes());
    assert_eq!(space[12..16], 126u32.to_le_bytes(), "seg_max");
    assert_eq!(space[20..24], 512u32.to_le_bytes(), "blk_size");
    assert_eq!(space[34..36], 4u16.to_le_bytes(), "num_queues");
    assert_eq!(space[60..], [0; 4], "nothing beyond the end");
    let mut far = [0xff; 8];
    block.read_config(u64::MAX - 3, &mut far);
    assert_eq!(far[..4], [0; 4]);
    assert_ne!(block.features() & (1 << VIRTIO_BLK_F_MQ), 0);
    assert_eq!(block.size(), IMAGE);
}

#[test]
fn images_that_cannot_be_used_are_refused_with_their_name() {
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    let refusal = |config: BlockConfig| {
        let path = config.path.display().to_string();
        match Block::new(config, device_loop.handle()) {
            Err(BlockError::Image { source, .. }) => {
                let text = source.to_string();
                assert!(text.contains(&path), "{text}");
                source
            }
            other => panic!("{other:?}"),
        }
    };
    let missing = refusal(config(Path::new("/nonexistent/disk.raw")));
    assert!(matches!(missing, ImageError::Open { .. }));
    let directory = refusal(config(Path::new("/")));
    assert!(
        directory.to_string().contains("is a directory"),
        "{directory}"
    );
    let device = refusal(config(Path::new("/dev/null")));
    assert!(matches!(device, ImageError::Type { .. }));
    let odd = Scratch::new("odd", &[0; 700]);
    let size = refusal(config(&odd.0));
    assert!(size.to_string().contains("700 bytes"), "{size}");
    let empty = Scratch::new("empty", &[]);
    assert!(matches!(refusal(config(&empty.0)), ImageError::Size { .. }));
}

#[test]
fn an_image_has_one_writer_or_many_readers() {
    let image = Scratch::image("lock");
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    let open = |readonly| {
        let config = BlockConfig {
            readonly,
            ..config(&image.0)
        };
        Block::new(config, device_loop.handle())
    };
    let is_locked = |result: Result<Block, BlockError>| {
        matches!(
            result,
            Err(BlockError::Image {
                source: ImageError::Locked { .. },
                ..
            })
        )
    };
    let writer = open(false).unwrap();
    assert!(is_locked(open(false)));
    assert!(is_locked(open(true)));
    drop(writer);
    let _one = open(true).unwrap();
    let _two = open(true).unwrap();
    assert!(is_locked(open(false)));
}

#[test]
fn values_out_of_range_are_refused() {
    let image = Scratch::image("range");
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    let refusal = |config| Block::new(config, device_loop.handle()).unwrap_err();
    for num_queues in [0, 65] {
        let error = refusal(BlockConfig {
            num_queues,
            ..config(&image.0)
        });
        assert!(error.to_string().contains("1 to 64"), "{error}");
    }
    for queue_size in [0, 2, 100, 40000] {
        let error = refusal(BlockConfig {
            queue_size,
            ..config(&image.0)
        });
        assert!(matches!(error, BlockError::QueueSize { .. }));
    }
    for serial in ["a serial number that is too long", "n\n"] {
        let serial = Some(serial.to_owned());
        let error = refusal(BlockConfig {
            serial,
            ..config(&image.0)
        });
        assert!(matches!(error, BlockError::Serial { .. }));
    }
}
