use super::*;
use crate::latency::Progress;
use crate::spec::VcpuId;

fn series() -> Series {
    let mut series = Series::new(What::TscDeadline, VcpuId(1), "3".to_owned());
    for value in (0..1000_u64).map(|n| 2_000 + n * 3).chain([250_000]) {
        series.late.record(value);
    }
    series.missed = 2;
    series.elapsed = Duration::from_millis(1500);
    series.scheduled = Some(Scheduled {
        thread: "vcpu1".to_owned(),
        voluntary_switches: 7,
        involuntary_switches: 1,
        run_ns: Some(5_000_000),
        wait_ns: Some(300),
    });
    series.exits = Some(Exits {
        to_user_space: 0,
        kvm: [("exits".to_owned(), 12), ("irq_exits".to_owned(), 11)].into(),
    });
    series
}

fn report() -> Report {
    Report {
        version: VERSION,
        godwit: "0".to_owned(),
        period_ns: 100_000,
        duration_ns: 1_000_000_000,
        interrupted: false,
        wait: Some(Wait::Halt),
        stress: Class::None,
        settings: "SCHED_FIFO 1, <4K pages>".to_owned(),
        warnings: Vec::new(),
        series: vec![Measured::of(&series())],
    }
}

#[test]
fn the_document_has_what_was_measured() {
    let document: serde_json::Value = serde_json::from_str(&report().json().unwrap()).unwrap();
    assert_eq!(document["version"], 1);
    assert_eq!(document["wait"], "halt");
    let series = &document["series"][0];
    assert_eq!(series["what"], "tsc-deadline");
    assert_eq!(
        (series["samples"].as_u64(), series["missed"].as_u64()),
        (Some(1001), Some(2))
    );
    let late = &series["late"];
    assert_eq!(late["min_ns"], 2_000);
    assert_eq!(late["max_ns"], 250_000);
    assert_eq!(late["p99_99_ns"], 250_000);
    let bars = series["histogram"].as_array().unwrap();
    let counted: u64 = bars.iter().filter_map(|bar| bar["count"].as_u64()).sum();
    assert_eq!(counted, 1001);
    assert_eq!(series["exits"]["kvm"]["irq_exits"], 11);
}

/// Every field of the document is in its schema.
#[test]
fn the_schema_names_the_fields() {
    let schema = serde_json::to_value(schema()).unwrap();
    let document = serde_json::to_value(report()).unwrap();
    for field in document.as_object().unwrap().keys() {
        assert!(schema["properties"][field].is_object(), "{field}");
    }
}

#[test]
fn the_text_has_what_was_measured() {
    let text = text(&report());
    for words in [
        "vCPU 1 on CPU 3: timer interrupts of a guest, by TSC deadline, every 100 µs, halting",
        "samples 1001 in 1.50 s, missed 2",
        "min 2.00 µs",
        "max 250 µs",
        "7 voluntary and 1 involuntary switches",
        "waited 300 ns",
        "exits to user space 0; KVM's counters: exits 12, irq_exits 11",
    ] {
        assert!(text.contains(words), "no {words:?} in:\n{text}");
    }
    let rows = text.lines().filter(|line| line.contains(" – ")).count();
    assert!((2..=24).contains(&rows), "{text}");
}

#[test]
fn nothing_measured_is_no_histogram() {
    let nothing = Series::new(What::Gap, VcpuId(0), "0".to_owned());
    let report = Report {
        series: vec![Measured::of(&nothing)],
        ..report()
    };
    assert!(text(&report).contains("samples 0"), "{}", text(&report));
    assert!(svg(&report).ends_with("</svg>\n"));
    let document: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
    assert!(document["series"][0]["late"].is_null());
}

/// Every tag is closed, and no text opens one.
#[test]
fn the_picture_is_well_formed() {
    let svg = svg(&report());
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("a tag ends");
        let name = tag.split([' ', '/']).find(|word| !word.is_empty()).unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(svg.contains("&lt;4K pages"), "{svg}");
    let no_number = ["NaN", "inf"];
    assert!(no_number.iter().all(|word| !svg.contains(word)), "{svg}");
    assert!(svg.contains("p99.99"), "{svg}");
}

#[test]
fn joined_bars_keep_every_sample_and_leave_no_gap() {
    let bars = &report().series[0].histogram;
    for steps in [1, 2, 4, 16, 64] {
        let joined = joined(bars, steps);
        assert_eq!(joined.iter().map(|bar| bar.count).sum::<u64>(), 1001);
        for pair in joined.windows(2) {
            assert_eq!(pair[0].to_ns + 1, pair[1].from_ns, "{pair:?}");
        }
    }
    assert!(joined(&[], 4).is_empty());
    let ends = [0, u64::MAX].map(|value| Bar {
        from_ns: value,
        to_ns: value,
        count: 1,
    });
    assert_eq!(joined(&ends, 4).iter().map(|bar| bar.count).sum::<u64>(), 2);
}

#[test]
fn the_live_line_says_how_it_goes() {
    let second = Duration::from_secs(1);
    let none = progress("guest", second, Progress::default());
    assert_eq!(none, "guest: 1.0 s, no sample yet");
    let some = Progress {
        samples: 9,
        min: 900,
        mean: 1500.0,
        max: 2_500_000,
    };
    assert_eq!(
        progress("guest", second, some),
        "guest: 1.0 s, 9 samples, min 900 ns, mean 1.50 µs, max 2.50 ms"
    );
}
