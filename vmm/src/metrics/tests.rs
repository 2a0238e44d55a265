use godwit_devices::serial::SerialCounters;

use super::*;
use crate::kvm::stats::KvmReadings;
use crate::kvm::stats::tests::Shown;

const STATUS: &str = "Name:\tgodwit\nVmSize:\t  300 kB\nVmLck:\t  8 kB\nVmRSS:\t  60 kB\n\
    RssAnon:\t  10 kB\nRssFile:\t  20 kB\nRssShmem:\t  30 kB\nVmPTE:\t  4 kB\nVmSwap:\t 0 kB\n\
    HugetlbPages:\t  2048 kB\n";

fn facts() -> Facts {
    Facts {
        phase: Phase::Empty,
        uptime: Duration::from_millis(1500),
        machine: None,
        migration: None,
        process: ProcessFacts::default(),
        threads: Vec::new(),
    }
}

fn with_machine(machine: MachineFacts) -> Facts {
    Facts {
        phase: Phase::Running,
        machine: Some(machine),
        ..facts()
    }
}

/// A `stat` file (proc_pid_stat(5)): the numbers of fields are their values,
/// but for those that are told.
fn stat(name: &str, fields: &[(usize, u64)]) -> String {
    let rest = (3..=52).map(|number| {
        let told = fields.iter().find(|(told, _)| *told == number);
        told.map_or(number as u64, |(_, value)| *value).to_string()
    });
    let rest: Vec<_> = rest.collect();
    format!("77 ({name}) {}", rest.join(" "))
}

fn thread(name: &str, ticks: u64) -> ThreadFacts {
    ThreadFacts {
        is_first: false,
        stat: stat(name, &[(14, 10 * ticks), (15, ticks), (43, 4 * ticks)]),
        status: format!(
            "Name:\t{name}\nvoluntary_ctxt_switches:\t{ticks}\nnonvoluntary_ctxt_switches:\t9\n"
        ),
        schedstat: "1500000000 250000000 7\n".to_owned(),
    }
}

#[track_caller]
fn assert_shows(facts: &Facts, lines: &[&str]) {
    let text = page(facts).to_text();
    for line in lines {
        assert!(
            text.lines().any(|shown| shown == *line),
            "no {line} in\n{text}"
        );
    }
}

#[track_caller]
fn assert_lacks(facts: &Facts, what: &str) {
    let text = page(facts).to_text();
    assert!(!text.contains(what), "{what} in\n{text}");
}

#[test]
fn without_a_machine_there_are_state_and_process() {
    let facts = facts();
    assert_shows(
        &facts,
        &[
            concat!(
                "godwit_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
            "godwit_uptime_seconds 1.5",
            "godwit_vm_state{state=\"empty\"} 1",
            "godwit_vm_state{state=\"running\"} 0",
        ],
    );
    for absent in [
        "godwit_kvm",
        "godwit_vm_vcpus",
        "godwit_guest",
        "process_cpu",
    ] {
        assert_lacks(&facts, absent);
    }
}

#[test]
fn exactly_one_state_is_set_in_each_phase() {
    for phase in Phase::ALL {
        let text = page(&Facts { phase, ..facts() }).to_text();
        let set = |value| {
            let lines = text
                .lines()
                .filter(|line| line.starts_with("godwit_vm_state{"));
            lines.filter(|line| line.ends_with(value)).count()
        };
        assert_eq!(
            (set("} 1"), set("} 0")),
            (1, Phase::ALL.len() - 1),
            "{text}"
        );
    }
}

#[test]
fn memory_devices_and_serial_port_have_base_units() {
    let facts = with_machine(MachineFacts {
        uptime: Duration::from_secs(3),
        vcpus: 2,
        exits: vec![7, 0],
        zones: vec![ZoneFacts {
            id: "mem0".to_owned(),
            page_bytes: 2 << 20,
            size_bytes: 64 << 20,
            allocated_bytes: 4 << 20,
        }],
        serial: Some(SerialCounters {
            received: 1,
            sent: 2,
            dropped: 3,
        }),
        devices: vec![DeviceFacts {
            id: "_disk0".to_owned(),
            counters: vec![
                ("read_bytes", 512),
                ("read_latency_max_us", 1500),
                ("b{d", 1),
            ],
        }],
        kvm: KvmReadings::default(),
    });
    assert_shows(
        &facts,
        &[
            "godwit_vm_state{state=\"running\"} 1",
            "godwit_vm_uptime_seconds 3",
            "godwit_vm_vcpus 2",
            "godwit_vcpu_exits_to_user_space_total{vcpu=\"0\"} 7",
            "godwit_vcpu_exits_to_user_space_total{vcpu=\"1\"} 0",
            "godwit_guest_memory_size_bytes{zone=\"mem0\",page_size=\"2M\"} 67108864",
            "godwit_guest_memory_allocated_bytes{zone=\"mem0\",page_size=\"2M\"} 4194304",
            "godwit_serial_receive_bytes_total 1",
            "godwit_serial_transmit_bytes_total 2",
            "godwit_serial_transmit_dropped_bytes_total 3",
            "godwit_device_read_bytes_total{device=\"_disk0\"} 512",
            "godwit_device_read_latency_max_seconds{device=\"_disk0\"} 0.0015",
        ],
    );
    assert_lacks(&facts, "b{d");
}

#[test]
fn a_threads_time_is_told_by_mode_and_role() {
    let facts = Facts {
        threads: vec![
            ThreadFacts {
                is_first: true,
                ..thread("godwit", 1)
            },
            thread("vcpu0", 100),
            thread("vhost-81", 1),
            thread("vhost-82", 2),
            thread("a) b (c", 1),
            ThreadFacts {
                schedstat: String::new(),
                ..thread("devices", 1)
            },
            thread(threads::OWN_NAME, 1),
            ThreadFacts::default(),
        ],
        ..facts()
    };
    assert_shows(
        &facts,
        &[
            "godwit_threads{role=\"control\",thread=\"godwit\"} 1",
            "godwit_thread_cpu_seconds_total{role=\"vcpu\",thread=\"vcpu0\",mode=\"guest\"} 4",
            "godwit_thread_cpu_seconds_total{role=\"vcpu\",thread=\"vcpu0\",mode=\"user\"} 6",
            "godwit_thread_cpu_seconds_total{role=\"vcpu\",thread=\"vcpu0\",mode=\"system\"} 1",
            "godwit_thread_run_seconds_total{role=\"vcpu\",thread=\"vcpu0\"} 1.5",
            "godwit_thread_run_queue_wait_seconds_total{role=\"vcpu\",thread=\"vcpu0\"} 0.25",
            "godwit_thread_timeslices_total{role=\"vcpu\",thread=\"vcpu0\"} 7",
            "godwit_thread_context_switches_total{role=\"vcpu\",thread=\"vcpu0\",kind=\"voluntary\"} 100",
            "godwit_thread_context_switches_total{role=\"vcpu\",thread=\"vcpu0\",kind=\"involuntary\"} 9",
            "godwit_threads{role=\"vhost\",thread=\"vhost\"} 2",
            "godwit_thread_cpu_seconds_total{role=\"vhost\",thread=\"vhost\",mode=\"system\"} 0.03",
            "godwit_threads{role=\"other\",thread=\"a) b (c\"} 1",
            "godwit_threads{role=\"devices\",thread=\"devices\"} 1",
        ],
    );
    assert_lacks(&facts, "timeslices_total{role=\"devices\"");
    assert_lacks(&facts, "thread=\"metrics\"");
}

#[test]
fn a_name_tells_the_role() {
    for (name, role) in [
        ("vcpu0", Role::Vcpu),
        ("vcpu127", Role::Vcpu),
        ("vcpu", Role::Other),
        ("vcpux", Role::Other),
        ("devices", Role::Devices),
        ("_net0_qp1", Role::Devices),
        ("_disk0", Role::Devices),
        ("api", Role::Api),
        ("events", Role::Api),
        ("signals", Role::Signals),
        ("worker", Role::Worker),
        ("send3", Role::Worker),
        ("vhost-1234", Role::Vhost),
        ("kvm-nx-lpage-re", Role::Kvm),
        ("godwit", Role::Other),
    ] {
        assert_eq!(Role::of(name, false), role, "{name}");
    }
    assert_eq!(Role::of("vcpu0", true), Role::Control);
}

#[test]
fn the_process_shows_what_the_kernel_counts() {
    let facts = Facts {
        process: ProcessFacts {
            status: STATUS.to_owned(),
            stat: stat("godwit", &[(14, 150), (15, 50), (22, 1000)]),
            open_fds: Some(12),
            max_fds: Some(1024),
            now: 5000.4,
            host_uptime: "100.3 80.00\n".to_owned(),
        },
        ..facts()
    };
    assert_shows(
        &facts,
        &[
            "godwit_process_resident_memory_bytes{kind=\"anonymous\"} 10240",
            "godwit_process_resident_memory_bytes{kind=\"file\"} 20480",
            "godwit_process_resident_memory_bytes{kind=\"hugetlb\"} 2097152",
            "godwit_process_resident_memory_bytes{kind=\"shared\"} 30720",
            "godwit_process_page_tables_bytes 4096",
            "godwit_process_locked_memory_bytes 8192",
            "godwit_process_swapped_memory_bytes 0",
            "process_cpu_seconds_total 2",
            "process_max_fds 1024",
            "process_open_fds 12",
            "process_resident_memory_bytes 61440",
            "process_start_time_seconds 4910",
            "process_virtual_memory_bytes 307200",
        ],
    );
}

#[test]
fn a_migration_shows_how_it_stands() {
    use godwit_api::response::{MigrationRole, MigrationStatus, PhaseTime, Progress};
    let migration = Progress {
        role: MigrationRole::Source,
        status: MigrationStatus::Finished,
        phase: "released".to_owned(),
        phases: vec![PhaseTime {
            phase: "copy".to_owned(),
            us: 1_500_000,
        }],
        rounds: 3,
        present_bytes: 100,
        scanned_bytes: 90,
        zero_bytes: 10,
        sent_bytes: 80,
        remaining_bytes: 5,
        dirty_pages_per_second: 7,
        predicted_downtime_us: None,
        downtime_us: Some(250),
        total_us: 2_000_000,
        error: Default::default(),
    };
    let facts = Facts {
        migration: Some(migration),
        ..facts()
    };
    assert_shows(
        &facts,
        &[
            "godwit_migration_status{role=\"source\",status=\"finished\"} 1",
            "godwit_migration_status{role=\"source\",status=\"ongoing\"} 0",
            "godwit_migration_phase_seconds{phase=\"copy\"} 1.5",
            "godwit_migration_duration_seconds 2",
            "godwit_migration_downtime_seconds 0.00025",
            "godwit_migration_rounds 3",
            "godwit_migration_present_bytes 100",
            "godwit_migration_sent_bytes 80",
            "godwit_migration_remaining_bytes 5",
        ],
    );
    assert_lacks(&facts, "predicted");
}

/// Files that a kernel shows otherwise leave families out, and break nothing.
#[test]
fn files_of_another_shape_show_less() {
    for text in [
        "",
        "(",
        ")",
        "1 (a",
        "VmSize: x kB\nVmSize:",
        "\u{e9}) 1 2 3",
    ] {
        let facts = Facts {
            process: ProcessFacts {
                status: text.to_owned(),
                stat: text.to_owned(),
                host_uptime: text.to_owned(),
                ..ProcessFacts::default()
            },
            threads: vec![ThreadFacts {
                is_first: false,
                stat: text.to_owned(),
                status: text.to_owned(),
                schedstat: text.to_owned(),
            }],
            ..facts()
        };
        assert_lacks(&facts, "process_virtual");
    }
}

mod kvm {
    use super::*;

    /// A vCPU's counters: of each sort and unit, known and unknown.
    fn vcpu(exits: u64) -> Shown {
        Shown::new(
            &[
                ("exits", 0x000, 0, 1, 0, 0),
                ("io_exits", 0x000, 0, 1, 8, 0),
                ("halt_wait_ns", 0x020, -9, 1, 16, 0),
                ("halt_wait_hist", 0x024, -9, 4, 24, 0),
                ("blocking", 0x041, 0, 1, 56, 0),
                ("newly_counted", 0x000, 0, 1, 64, 0),
                ("depth_hist", 0x003, 0, 3, 72, 10),
                ("alone_ns", 0x020, -9, 1, 96, 0),
                ("moved", 0x010, 10, 1, 104, 0),
                ("spent", 0x030, 0, 1, 112, 0),
            ],
            &[
                exits,
                17,
                2_000_000_000,
                1,
                2,
                3,
                4,
                1,
                5,
                6,
                7,
                8,
                250_000_000,
                3,
                99,
            ],
        )
    }

    fn shown() -> Facts {
        let vm = Shown::new(
            &[
                ("pages_4k", 0x001, 0, 1, 0, 0),
                ("pages_2m", 0x001, 0, 1, 8, 0),
                ("max_mmu_rmap_size", 0x002, 0, 1, 16, 0),
                ("remote_tlb_flush", 0x000, 0, 1, 24, 0),
            ],
            &[11, 22, 33, 44],
        );
        with_machine(MachineFacts {
            kvm: KvmReadings {
                vm: Some(vm.reading()),
                vcpus: vec![(0, vcpu(100).reading()), (1, vcpu(200).reading())],
            },
            ..MachineFacts::default()
        })
    }

    #[test]
    fn counters_and_gauges_have_units_and_endings() {
        assert_shows(
            &shown(),
            &[
                "# TYPE godwit_kvm_vcpu_exits_total counter",
                "godwit_kvm_vcpu_exits_total{vcpu=\"0\"} 100",
                "godwit_kvm_vcpu_exits_total{vcpu=\"1\"} 200",
                "godwit_kvm_vcpu_exits_by_kind_total{vcpu=\"1\",kind=\"io\"} 17",
                "# TYPE godwit_kvm_vcpu_blocking gauge",
                "godwit_kvm_vcpu_blocking{vcpu=\"0\"} 1",
                "godwit_kvm_vcpu_moved_bytes_total{vcpu=\"0\"} 30000000000",
                "godwit_kvm_vcpu_spent_cycles_total{vcpu=\"0\"} 99",
                "godwit_kvm_vcpu_alone_seconds_total{vcpu=\"0\"} 0.25",
                "godwit_kvm_vm_mapped_pages{size=\"2m\"} 22",
                "godwit_kvm_vm_mapped_pages{size=\"4k\"} 11",
                "godwit_kvm_vm_mmu_rmap_size_max 33",
                "godwit_kvm_vm_remote_tlb_flushes_total 44",
            ],
        );
    }

    #[test]
    fn what_is_in_no_table_keeps_its_name() {
        assert_shows(
            &shown(),
            &[
                "# HELP godwit_kvm_vcpu_newly_counted_total What KVM counts as newly_counted.",
                "godwit_kvm_vcpu_newly_counted_total{vcpu=\"0\"} 5",
            ],
        );
    }

    #[test]
    fn a_histogram_has_its_sum_from_its_partner() {
        let facts = shown();
        assert_shows(
            &facts,
            &[
                "# TYPE godwit_kvm_vcpu_halt_wait_seconds histogram",
                "godwit_kvm_vcpu_halt_wait_seconds_bucket{vcpu=\"0\",le=\"0\"} 1",
                "godwit_kvm_vcpu_halt_wait_seconds_bucket{vcpu=\"0\",le=\"0.000000001\"} 3",
                "godwit_kvm_vcpu_halt_wait_seconds_bucket{vcpu=\"0\",le=\"0.000000003\"} 6",
                "godwit_kvm_vcpu_halt_wait_seconds_bucket{vcpu=\"0\",le=\"+Inf\"} 10",
                "godwit_kvm_vcpu_halt_wait_seconds_sum{vcpu=\"0\"} 2",
                "godwit_kvm_vcpu_halt_wait_seconds_count{vcpu=\"0\"} 10",
                "godwit_kvm_vcpu_depth_bucket{vcpu=\"0\",le=\"9\"} 6",
                "godwit_kvm_vcpu_depth_bucket{vcpu=\"0\",le=\"19\"} 13",
                "godwit_kvm_vcpu_depth_bucket{vcpu=\"0\",le=\"+Inf\"} 21",
                "godwit_kvm_vcpu_depth_sum{vcpu=\"0\"} NaN",
            ],
        );
        assert_lacks(&facts, "halt_wait_seconds_total");
    }
}
