//! `GET /metrics`, read by a Prometheus parser.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use prometheus_parse::{Sample, Scrape, Value};

use super::process::PATIENCE;

/// The body of an answer that the parser reads whole.
#[track_caller]
pub fn scrape(socket: &Path) -> Scrape {
    let mut stream = UnixStream::connect(socket).expect("connecting");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("asking");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let lines = body.lines().map(|line| Ok(line.to_owned()));
    let scrape = Scrape::parse(lines).expect("text that Prometheus reads");
    // The parser is silent about lines that it does not understand, and makes one sample of the
    // buckets of a histogram.
    let shown = body.lines().filter(|line| !line.starts_with('#'));
    let read = scrape.samples.iter().map(|sample| match &sample.value {
        Value::Histogram(buckets) => buckets.len(),
        _ => 1,
    });
    assert_eq!(read.sum::<usize>(), shown.count(), "{body}");
    scrape
}

/// The one value of `name` with these labels.
#[track_caller]
pub fn value(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |sample: &&Sample| {
        let mut labels = labels.iter();
        sample.metric == name && labels.all(|(key, value)| sample.labels.get(key) == Some(*value))
    };
    let found: Vec<_> = scrape.samples.iter().filter(fits).collect();
    match found.as_slice() {
        [sample] => match sample.value {
            Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
            _ => panic!("{name} is no number"),
        },
        _ => panic!("{} of {name} {labels:?}", found.len()),
    }
}

/// Whether there is any sample of `name`.
pub fn has(scrape: &Scrape, name: &str) -> bool {
    scrape.samples.iter().any(|sample| sample.metric == name)
}

/// The one state that the machine is in.
#[track_caller]
pub fn state(scrape: &Scrape) -> String {
    let states = scrape.samples.iter().filter(|sample| {
        let is = matches!(sample.value, Value::Gauge(value) if value == 1.0);
        sample.metric == "godwit_vm_state" && is
    });
    let names: Vec<_> = states
        .filter_map(|state| state.labels.get("state"))
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].to_owned()
}
