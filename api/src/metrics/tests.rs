use proptest::prelude::*;

use super::*;

const UPTIME: Family = Family::gauge(
    "godwit_uptime_seconds",
    "Since the start.\nAll \\ of it.",
    &[],
);
const EXITS: Family = Family::counter("godwit_exits_total", "Exits.", &["vcpu", "reason"]);
const POLLS: Family = Family::histogram("godwit_polls_seconds", "Polls.", &["vcpu"]);

#[test]
fn families_are_whole_and_in_the_order_of_their_coming() {
    let mut page = Page::new();
    page.set(&EXITS, &["1", "hlt"], 2_u64);
    page.set(&UPTIME, &[], 1.5);
    page.set(&EXITS, &["0", "i\"o\\\n"], u64::MAX);
    page.set(&EXITS, &["1", "hlt"], 3_u64);
    assert_eq!(
        page.to_text(),
        r#"# HELP godwit_exits_total Exits.
# TYPE godwit_exits_total counter
godwit_exits_total{vcpu="0",reason="i\"o\\\n"} 18446744073709551615
godwit_exits_total{vcpu="1",reason="hlt"} 3
# HELP godwit_uptime_seconds Since the start.\nAll \\ of it.
# TYPE godwit_uptime_seconds gauge
godwit_uptime_seconds 1.5
"#
    );
}

#[test]
fn a_histogram_is_cumulative_and_ends_at_infinity() {
    let mut page = Page::new();
    let histogram = Histogram {
        buckets: vec![(0.001, 2), (1.0, 3)],
        above: 1,
        sum: 4.25,
    };
    page.set_histogram(&POLLS, &["0"], histogram);
    assert_eq!(
        page.to_text(),
        r#"# HELP godwit_polls_seconds Polls.
# TYPE godwit_polls_seconds histogram
godwit_polls_seconds_bucket{vcpu="0",le="0.001"} 2
godwit_polls_seconds_bucket{vcpu="0",le="1"} 5
godwit_polls_seconds_bucket{vcpu="0",le="+Inf"} 6
godwit_polls_seconds_sum{vcpu="0"} 4.25
godwit_polls_seconds_count{vcpu="0"} 6
"#
    );
}

#[test]
fn numbers_that_are_none_have_their_names() {
    for (value, text) in [
        (f64::NAN, "NaN"),
        (f64::INFINITY, "+Inf"),
        (f64::NEG_INFINITY, "-Inf"),
        (-0.25, "-0.25"),
    ] {
        assert_eq!(Number::from(value).to_string(), text);
    }
}

#[test]
fn a_wrong_name_is_refused() {
    for wrong in [
        || Family::gauge("", "", &[]),
        || Family::gauge("0a", "", &[]),
        || Family::gauge("a-b", "", &[]),
        || Family::gauge("a_total", "", &[]),
        || Family::counter("a", "", &[]),
        || Family::gauge("a", "", &["b c"]),
        || Family::histogram("a", "", &["le"]),
    ] {
        assert!(std::panic::catch_unwind(wrong).is_err());
    }
}

proptest! {
    #[test]
    fn any_label_stays_on_its_line_in_ascii(value in any::<String>()) {
        let mut page = Page::new();
        page.set(&EXITS, &[&value, "x"], 1_u64);
        let text = page.to_text();
        prop_assert!(text.is_ascii());
        prop_assert_eq!(text.matches('\n').count(), 3);
        let line = text.lines().nth(2).unwrap();
        let ends = ("godwit_exits_total{vcpu=\"", "\",reason=\"x\"} 1");
        prop_assert!(line.starts_with(ends.0) && line.ends_with(ends.1), "{}", line);
    }
}

#[test]
fn a_learnt_family_has_a_name_of_its_kind() {
    let learnt = |kind, name: &str, labels| {
        Family::learnt(kind, name.to_owned(), "Help.".to_owned(), labels).is_some()
    };
    assert!(learnt(Kind::Counter, "exits_total", &["vcpu"]));
    assert!(learnt(Kind::Gauge, "pages", &[]));
    assert!(learnt(Kind::Histogram, "wait_seconds", &["vcpu"]));
    assert!(!learnt(Kind::Counter, "exits", &["vcpu"]));
    assert!(!learnt(Kind::Gauge, "exits_total", &["vcpu"]));
    assert!(!learnt(Kind::Gauge, "pages{x", &[]));
    assert!(!learnt(Kind::Gauge, "", &[]));
    assert!(!learnt(Kind::Gauge, "pages", &["le"]));
    assert!(!learnt(Kind::Gauge, "pages", &["a b"]));
}
