//! How fast a guest of plain memory moves, by means and by way.
//!
//! ```text
//! cargo run --release -p godwit-migration --features test-utils --example throughput -- \
//!     [to=ADDRESS] [present=MIB] [size=MIB] [kind=full|mbuf|zero] [dirty=PAGES_PER_SECOND] \
//!     [hot=MIB] [streams=N] [runs=N] [MEANS=off] [warm=on]
//! ```
//!
//! Medians of `runs` runs: total and downtime, GiB/s of present memory, and bytes
//! on the wire.

use std::error::Error;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use godwit_migration::address::Address;
use godwit_migration::cancel::Cancel;
use godwit_migration::channel::Listener;
use godwit_migration::destination::receive;
use godwit_migration::memory::PAGE_BYTES;
use godwit_migration::options::{AtTimeout, Options, ZeroLines};
use godwit_migration::source::{Outcome, send};
use godwit_migration::stats::Snapshot;
use godwit_migration::testing::{
    FakeDestination, FakeSource, Memory, Numbers, allocated_pages, memory,
};

#[derive(Debug, Clone)]
struct Case {
    to: Address,
    present_mib: u64,
    size_mib: u64,
    kind: String,
    dirty: u64,
    hot_mib: u64,
    runs: usize,
    warm: bool,
    options: Options,
}

fn main() -> Result<(), Box<dyn Error>> {
    let case = arguments()?;
    let mut done = Vec::new();
    for _ in 0..case.runs {
        done.push(run(&case)?);
    }
    done.sort_by_key(|s| s.total_us);
    let median = &done[done.len() / 2];
    let mut downtimes: Vec<_> = done.iter().map(|s| s.downtime_us).collect();
    downtimes.sort_unstable();
    let per_second = |bytes: u64| mib(bytes) / 1024.0 / (ms(median.total_us) / 1000.0);
    println!(
        "total {:.1} ms ({:.1} to {:.1}), downtime {} us ({} to {}), {} rounds, {:.2} GiB/s of {:.0} MiB present, wire {:.1} MiB",
        ms(median.total_us),
        ms(done[0].total_us),
        ms(done[done.len() - 1].total_us),
        downtimes[downtimes.len() / 2],
        downtimes[0],
        downtimes[downtimes.len() - 1],
        median.rounds.len(),
        per_second(median.present_bytes),
        mib(median.present_bytes),
        mib(median.sent_bytes),
    );
    let phases: Vec<_> = median
        .phase_us
        .iter()
        .map(|(phase, us)| format!("{} {us}", phase.name()))
        .collect();
    println!("  us: {}", phases.join(", "));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "printed with few digits")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[expect(clippy::cast_precision_loss, reason = "printed with few digits")]
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn arguments() -> Result<Case, Box<dyn Error>> {
    let mut case = Case {
        to: "tcp:127.0.0.1:0".parse()?,
        present_mib: 512,
        size_mib: 8192,
        kind: "full".to_owned(),
        dirty: 0,
        hot_mib: 64,
        runs: 5,
        warm: false,
        options: Options {
            at_timeout: AtTimeout::Ignore,
            timeout: Duration::from_secs(10),
            ..Options::default()
        },
    };
    for argument in std::env::args().skip(1) {
        let (key, value) = argument
            .split_once('=')
            .ok_or_else(|| format!("{argument}: KEY=VALUE is wanted"))?;
        let on = value == "on";
        let means = &mut case.options.means;
        match key {
            "to" => case.to = value.parse()?,
            "present" => case.present_mib = value.parse()?,
            "size" => case.size_mib = value.parse()?,
            "kind" => value.clone_into(&mut case.kind),
            "dirty" => case.dirty = value.parse()?,
            "hot" => case.hot_mib = value.parse()?,
            "streams" => case.options.streams = value.parse()?,
            "runs" => case.runs = value.parse()?,
            "warm" => case.warm = on,
            "local" => case.options.local = on,
            "discovery" => means.discovery = on,
            "zero_pages" => means.zero_pages = on,
            "zero_lines" => {
                means.zero_lines = match value {
                    "on" => ZeroLines::On,
                    "off" => ZeroLines::Off,
                    _ => ZeroLines::Auto,
                };
            }
            "untouched" => means.untouched = on,
            "clear_before_read" => means.clear_before_read = on,
            "hot_pages_last" => means.hot_pages_last = on,
            "striped_final" => means.striped_final = on,
            "stop_at_minimum" => means.stop_at_minimum = on,
            "checksum_pages" => means.checksum_pages = on,
            "populate_ahead" => means.populate_ahead = on,
            "write_through_file" => means.write_through_file = on,
            _ => return Err(format!("{key} is not known").into()),
        }
    }
    Ok(case)
}

/// A page of this kind: full, a pool of packet buffers, or zero.
fn page(kind: &str, number: u64) -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    match kind {
        "zero" => {}
        "mbuf" => {
            for line in (0..63).step_by(21) {
                page[line * 64] = 1;
                page[line * 64 + 64] = 1;
            }
        }
        _ => {
            let mut numbers = Numbers::new(number + 1);
            for word in page.as_chunks_mut::<8>().0 {
                *word = numbers.below(u64::MAX).to_ne_bytes();
            }
        }
    }
    page
}

fn run(case: &Case) -> Result<Snapshot, Box<dyn Error>> {
    let guest = FakeSource::new(memory(&[case.size_mib << 20]));
    let pages = case.present_mib << 8;
    let spread = (case.size_mib << 8) / pages.max(1);
    // In runs of 2 MiB, apart.
    for number in 0..pages {
        let at = number / 512 * 512 * spread + number % 512;
        guest.memory()[0]
            .write_page(at, &page(&case.kind, number))
            .ok_or("the memory is too small")?;
    }
    let mut guest = if case.dirty == 0 {
        guest
    } else {
        guest.with_vcpu(dirtier(case))
    };
    let before = guest.memory().to_vec();
    let allocated = allocated_pages(&before);
    let mut place = FakeDestination::new();
    if case.warm {
        place = place.populated();
    }
    let door = Listener::bind(&case.to)?;
    let cancel = Cancel::new()?;
    let progress = Arc::default();
    let sent = thread::scope(|scope| {
        let there =
            scope.spawn(|| receive(&door, &mut place, &case.options, &Arc::default(), &cancel));
        let sent = send(
            &mut guest,
            door.address(),
            &case.options,
            &progress,
            &cancel,
        );
        match there.join() {
            Ok(Ok(_)) => {}
            other => eprintln!("destination: {other:?}"),
        }
        sent
    })?;
    if case.dirty == 0 && allocated_pages(&before) != allocated {
        return Err("the source's memory grew".into());
    }
    match sent {
        Outcome::Moved(snapshot) => Ok(snapshot),
        Outcome::Ambiguous { reason, .. } => Err(reason.into()),
    }
}

/// Dirties so many pages a second, in bursts of a millisecond.
fn dirtier(case: &Case) -> impl Fn(&Memory, &mut Numbers) + Send + Sync + 'static {
    let burst = (case.dirty / 1000).max(1);
    let hot = case.hot_mib << 8;
    let content = page(&case.kind, 77);
    let hot = hot.min(case.present_mib << 8);
    move |memory, numbers| {
        let started = Instant::now();
        for _ in 0..burst {
            memory.write(0, numbers.below(hot), &content);
        }
        thread::sleep(Duration::from_millis(1).saturating_sub(started.elapsed()));
    }
}
