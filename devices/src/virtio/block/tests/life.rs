//! A disk starts, stops, moves, and leaves traces where it should.

use super::*;

#[test]
fn what_a_disk_writes_to_ram_is_in_the_dirty_log() {
    on_both_engines("dirty", |image, engine| {
        let mut rig = Rig::new(config(&image.0), engine);
        let memory = Arc::clone(&rig.memory);
        let pages = || {
            let mut pages = Vec::new();
            dirty::harvest(&memory, &mut |address, bits| {
                let bits = (0..64).filter(|bit| bits >> bit & 1 == 1);
                pages.extend(bits.map(|bit| address.0 + bit * 4096));
            });
            pages
        };
        dirty::start(&memory);
        let at = DATA.next_multiple_of(4096);
        for (kind, len, told) in [
            // Two pages and a bit; the last bytes of a page; nothing but a status.
            (IN, 2 * 4096 + 512, vec![at, at + 4096, at + 8192]),
            (GET_ID, 512, vec![at]),
            (OUT, 4096, vec![]),
            (FLUSH, 0, vec![]),
        ] {
            rig.header(kind, 0);
            let flags = if matches!(kind, IN | GET_ID) {
                WRITE
            } else {
                0
            };
            let mut chain = vec![(HEADER, 16, 0), (at, len, flags), (STATUS, 1, WRITE)];
            chain.retain(|(_, len, _)| *len > 0);
            rig.drivers[0].post(&chain);
            // What the driver wrote itself.
            pages();
            rig.drivers[0].kick();
            rig.drivers[0].wait();
            let found = pages();
            let data: Vec<_> = found.iter().copied().filter(|page| *page >= at).collect();
            assert_eq!(data, told, "{kind}");
            assert!(found.contains(&(STATUS & !0xfff)), "{kind}: {found:x?}");
            assert!(found.contains(&0x1000), "the used ring: {found:x?}");
        }
        dirty::stop(&memory);
    });
}

#[test]
fn an_image_goes_from_one_machine_to_the_next_and_back() {
    let image = Scratch::image("handover");
    let mut source = Rig::new(config(&image.0), Engine::Uring);
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    let handle = device_loop.handle();
    let refused = Block::new(config(&image.0), handle.clone()).unwrap_err();
    assert!(matches!(
        refused,
        BlockError::Image {
            source: ImageError::Locked { .. },
            ..
        }
    ));

    let mut next = Block::incoming(config(&image.0), handle.clone()).unwrap();
    let error = next.acquire().unwrap_err();
    assert!(error.to_string().contains("_disk0"), "{error}");
    let at = source.block.stop().unwrap();
    assert!(next.acquire().is_err(), "a pause keeps the lock");
    source.block.release().unwrap();
    next.restore(&source.block.save()).unwrap();
    next.acquire().unwrap();
    next.acquire().unwrap();
    assert!(source.block.acquire().is_err());
    let failed = source.block.activate(Activation {
        memory: Arc::clone(&source.memory),
        features: source.block.features(),
        rings: source
            .drivers
            .iter()
            .zip(&at)
            .map(|(d, at)| d.ring(*at))
            .collect(),
        config_change: source.heard.clone(),
    });
    assert!(failed.is_err(), "two machines never have it");

    // The move fails after all.
    drop(next);
    source.start(&at, source.block.features());
    assert_eq!(source.request(IN, 0, &[(DATA, 512)]).0, OK);
    assert!(Block::new(config(&image.0), handle).is_err());
}

#[test]
fn another_disk_is_not_taken_for_the_one_that_was_saved() {
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    let image = Scratch::image("moved");
    let mut disk = Block::new(config(&image.0), device_loop.handle()).unwrap();
    disk.write_config(WRITEBACK as u64, &[0]);
    let saved = disk.state();
    assert!(!saved.writeback);
    let refused = |disk: &mut Block, state| {
        let error = disk.restore(&DeviceV1::Block(state)).unwrap_err();
        error.to_string()
    };
    let sectors = saved.sectors + 1;
    let error = refused(&mut disk, BlockV1 { sectors, ..saved });
    assert!(error.contains(&sectors.to_string()), "{error}");
    let error = refused(
        &mut disk,
        BlockV1 {
            block: 4096,
            ..saved
        },
    );
    assert!(error.contains("4096"), "{error}");
    disk.write_config(WRITEBACK as u64, &[1]);
    disk.restore(&DeviceV1::Block(saved)).unwrap();
    assert_eq!(disk.state(), saved);
}

#[test]
fn it_does_what_every_device_does() {
    let device_loop = DeviceLoop::spawn("block-test", || ()).unwrap();
    for (readonly, num_queues) in [(false, 1), (true, 4)] {
        crate::testing::device_suite(|| {
            // The device holds the image open, so it can lose its name at once.
            let image = Scratch::image("suite");
            let config = BlockConfig {
                readonly,
                num_queues,
                ..config(&image.0)
            };
            Box::new(Block::new(config, device_loop.handle()).unwrap())
        });
    }
}

#[test]
fn io_uring_is_used_where_it_is_permitted() {
    // Not skipped in silence: this says which engine the other tests had.
    let permitted = io_uring::IoUring::new(2).is_ok();
    assert_eq!(Uring::new().is_ok(), permitted);
}

/// The CPUs of the kernel's workers for the thread `tid`, as its status says.
fn workers_of(tid: i32) -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
    let name = format!("Name:\tiou-wrk-{tid}\n");
    tasks
        .filter_map(|task| status(task.unwrap()))
        .filter(|status| status.starts_with(&name))
        .map(|status| {
            let line = status.lines().find(|l| l.starts_with("Cpus_allowed_list"));
            line.unwrap().split('\t').nth(1).unwrap().to_owned()
        })
        .collect()
}

#[test]
fn the_kernels_workers_stay_on_the_cpus_of_the_device_loop() {
    if Uring::new().is_err() {
        return;
    }
    let image = Scratch::image("pinned");
    let (sender, tid) = std::sync::mpsc::channel();
    let prepare = move || {
        let mut one = nix::sched::CpuSet::new();
        let all = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
        let last = (0..nix::sched::CpuSet::count()).rfind(|&cpu| all.is_set(cpu).unwrap());
        one.set(last.unwrap()).unwrap();
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one).unwrap();
        sender
            .send((nix::unistd::gettid().as_raw(), last.unwrap()))
            .unwrap();
    };
    let device_loop = DeviceLoop::spawn("block-test", prepare).unwrap();
    let (tid, cpu) = tid.recv().unwrap();
    let mut rig = Rig::on(device_loop, config(&image.0), Engine::Uring);
    // A flush always goes to a worker.
    assert_eq!(rig.request(FLUSH, 0, &[]), (OK, 1));
    let workers = workers_of(tid);
    assert!(!workers.is_empty());
    assert!(workers.iter().all(|w| *w == cpu.to_string()), "{workers:?}");
}

#[test]
fn stopping_finishes_what_was_taken_and_tells_where_the_rings_stand() {
    on_both_engines("stop", |image, engine| {
        let mut rig = Rig::new(
            BlockConfig {
                num_queues: 3,
                ..config(&image.0)
            },
            engine,
        );
        rig.header(IN, 0);
        let mut positions = vec![RingPosition::default(); 3];
        for round in 0..50u64 {
            for queue in 0..3usize {
                for i in 0..20 {
                    let data = DATA + (queue as u64 * 20 + i) * 0x1000;
                    rig.drivers[queue].post(&[
                        (HEADER, 16, 0),
                        (data, 4096, WRITE),
                        (STATUS + queue as u64 * 32 + i, 1, WRITE),
                    ]);
                }
                rig.drivers[queue].kick();
            }
            if round % 2 == 0 {
                std::thread::yield_now();
            }
            positions = rig.block.stop().unwrap();
            for (queue, at) in positions.iter().enumerate() {
                assert_eq!(
                    at.next_avail, at.next_used,
                    "all that was taken was answered"
                );
                let mut used = 0;
                while let Some((_, len)) = rig.drivers[queue].used_entry() {
                    assert_eq!(len, 4097);
                    used += 1;
                }
                assert!(used <= 40);
            }
            rig.start(&positions, rig.block.features());
            // What was left is served without a new kick.
            for (driver, at) in rig.drivers.iter_mut().zip(&positions) {
                let posted = driver.posted();
                let mut done = at.next_used;
                while done != posted {
                    driver.wait();
                    done = done.wrapping_add(1);
                }
            }
        }
        assert_eq!(rig.block.stop().unwrap().len(), positions.len());
        assert_eq!(rig.block.stop().unwrap(), []);
    });
}

#[test]
fn more_requests_than_slots_are_all_answered() {
    on_both_engines("slots", |image, engine| {
        let mut rig = Rig::new(
            BlockConfig {
                num_queues: 4,
                ..config(&image.0)
            },
            engine,
        );
        rig.header(IN, 9);
        let per_queue = 42;
        for queue in 0..4 {
            for _ in 0..per_queue {
                rig.drivers[queue].post(&[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
            }
        }
        for queue in 0..4 {
            rig.drivers[queue].kick();
        }
        for queue in 0..4 {
            for _ in 0..per_queue {
                assert_eq!(rig.drivers[queue].wait().1, 513);
            }
        }
    });
}
