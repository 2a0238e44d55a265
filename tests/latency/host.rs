//! Without a guest.

use super::{assert_about, assert_sound, document, latency};

#[test]
fn the_host_is_measured_in_two_ways() {
    let document = document(&["--host", "--duration", "1s", "--period", "5000"]);
    let series = document["series"].as_array().expect("series");
    let what: Vec<_> = series.iter().map(|one| one["what"].as_str()).collect();
    assert_eq!(what, [Some("gap"), Some("nanosleep")]);
    for one in series {
        assert_sound(one);
        assert_about(one, 5000);
        assert_eq!(one["scheduled"]["thread"], "host0");
        assert!(one["exits"].is_null(), "{one}");
    }
    assert!(document["wait"].is_null());
}

#[test]
fn what_only_a_guest_has_is_refused() {
    let ended = latency(&["--host", "--wait", "poll"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("--wait"), "{}", ended.stderr);
}
