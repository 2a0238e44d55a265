//! What the kernel traces, in buffers of a test's own (Documentation/trace/ftrace.rst).

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use super::namespace::run;

/// Where the kernel has its tracing.
const TRACING: &str = "/sys/kernel/tracing";

/// For each CPU.
const BUFFER_KIB: u32 = 8192;

/// An event that was traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The thread in whose time it happened.
    pub thread: u32,
    pub cpu: u32,
    /// It happened in an interrupt that came meanwhile.
    pub interrupt: bool,
    pub name: String,
    /// What is told of it.
    pub fields: String,
}

impl Event {
    /// What follows `key=` up to the next blank.
    pub fn field(&self, key: &str) -> Option<&str> {
        let mut words = self.fields.split_whitespace();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// `  comm-12  [001] d..2.  1234.567890: name: fields`.
    fn parse(line: &str) -> Option<Self> {
        let (task, rest) = line.split_once(" [")?;
        let (cpu, rest) = rest.split_once(']')?;
        let (moment, rest) = rest.split_once(": ")?;
        // Interrupts off, need to reschedule, in an interrupt, depth.
        let within = moment.trim().chars().nth(2)?;
        let (name, fields) = rest.split_once(':')?;
        Some(Self {
            thread: task.trim().rsplit_once('-')?.1.parse().ok()?,
            cpu: cpu.parse().ok()?,
            interrupt: within != '.',
            name: name.to_owned(),
            fields: fields.trim().to_owned(),
        })
    }
}

/// A buffer of events, removed when dropped. Others that trace are not disturbed.
#[derive(Debug)]
pub struct Trace(PathBuf);

impl Trace {
    /// To be called where mounts are the test's own.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let instances = Path::new(TRACING).join("instances");
        if !instances.exists() {
            run("mount", &["-t", "tracefs", "tracefs", TRACING]);
        }
        let folder = instances.join(format!("godwit-{}-{name}", std::process::id()));
        fs::create_dir(&folder).expect("needs tracefs: making an instance");
        let trace = Self(folder);
        trace.write("buffer_size_kb", BUFFER_KIB);
        trace
    }

    /// Only what happens on `cpu`.
    pub fn on_cpu(&self, cpu: u32) {
        let mask = format!("{:x}", 1_u128 << cpu);
        // Words of 32 bits, as the kernel has them.
        let words: Vec<_> = mask.as_bytes().rchunks(8).rev().collect();
        let words = words.iter().map(|word| String::from_utf8_lossy(word));
        self.write("tracing_cpumask", words.collect::<Vec<_>>().join(","));
    }

    /// Events of `system/name` for which `filter` holds.
    #[track_caller]
    pub fn enable(&self, event: &str, filter: Option<&str>) {
        if let Some(filter) = filter {
            self.write(&format!("events/{event}/filter"), filter);
        }
        self.write(&format!("events/{event}/enable"), 1);
    }

    /// Forgets what was traced.
    pub fn clear(&self) {
        self.write("trace", "");
    }

    /// What was traced until now, all of it.
    #[track_caller]
    pub fn events(&self) -> Vec<Event> {
        self.write("tracing_on", 0);
        let text = fs::read_to_string(self.0.join("trace")).expect("reading the trace");
        for cpu in fs::read_dir(self.0.join("per_cpu")).expect("the buffers") {
            let stats = cpu.expect("a buffer").path().join("stats");
            let stats = fs::read_to_string(stats).expect("what a buffer lost");
            let lost = |key: &str| {
                let mut lines = stats.lines();
                let of = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
                of.is_none_or(|lost| lost != "0")
            };
            assert!(!lost("overrun") && !lost("dropped events"), "{stats}");
        }
        self.write("tracing_on", 1);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let told: Vec<_> = lines.filter(|line| !line.trim().is_empty()).collect();
        let read = told.iter().map(|line| {
            Event::parse(line).unwrap_or_else(|| panic!("not understood of the trace: {line}"))
        });
        read.collect()
    }

    #[track_caller]
    fn write(&self, file: &str, text: impl Display) {
        let path = self.0.join(file);
        fs::write(&path, text.to_string())
            .unwrap_or_else(|error| panic!("{text} into {}: {error}", path.display()));
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("events/enable"), "0");
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} stays behind: {error}", self.0.display());
        }
    }
}

/// A filter for events in the time of `threads`.
pub fn of_threads(threads: &[u32]) -> String {
    let each = threads.iter().map(|id| format!("common_pid == {id}"));
    each.collect::<Vec<_>>().join(" || ")
}

#[test]
fn a_line_of_a_trace() {
    let line = "      kworker/1:0-H-17      [001] d..2.  1234.567890: hrtimer_start: hrtimer=00 \
                function=hrtimer_wakeup expires=1";
    let event = Event::parse(line).expect("an event");
    assert_eq!((event.thread, event.cpu, event.interrupt), (17, 1, false));
    assert_eq!(event.name, "hrtimer_start");
    assert_eq!(event.field("function"), Some("hrtimer_wakeup"));
    let event = Event::parse(&line.replace("d..2.", "d.h2.")).expect("an event");
    assert!(event.interrupt);
    assert_eq!(Event::parse("CPU:1 [LOST 3 EVENTS]"), None);
}
