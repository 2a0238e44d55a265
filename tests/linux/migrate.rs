//! Linux with its own drivers moves.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use godwit_lab::seam::{self, Need};
use godwit_lab::traffic::Bridge;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::linux::{self, Guest};
use crate::support::namespace::apart;
use crate::support::scratch::Scratch;

/// Samples of both clocks, ten a second, from which the guest itself says at the end: how many,
/// the smallest and the largest step of the monotonic clock, and how far the wall clock strayed
/// from it. In centiseconds; the wall clock's seconds are compared as they change.
const SAMPLE: &str = "( while [ ! -e /run/enough ]; do read -r up rest </proc/uptime; \
     echo $up $(adjtimex | awk '/time.tv_sec/{s=$2} /time.tv_usec/{u=$2} END{printf \"%d.%06d\", s, u}'); \
     usleep 100000; done >/run/clocks ) &";

const JUDGE: &str = "awk 'NR>1{d=$1-m; if(NR==2||d<lo)lo=d; if(d>hi)hi=d} {m=$1; o=$2-$1; if(NR==1||o<a)a=o; if(NR==1||o>b)b=o} \
     END{printf \"judged %d %.2f %.2f %.3f\\n\", NR, lo, hi, b-a}' /run/clocks";

/// The guest's wall clock less the host's, as an interval in seconds.
fn wall_offset(guest: &mut impl Guest) -> (f64, f64) {
    let now = || {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.expect("a host's clock after 1970").as_secs_f64()
    };
    let before = now();
    let said = guest.run("adjtimex");
    let after = now();
    let field = |key: &str| {
        let line = said.lines().find(|line| line.contains(key));
        let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        number.unwrap_or_else(|| panic!("no {key} in {said}"))
    };
    let wall = field("time.tv_sec") + field("time.tv_usec") / 1e6;
    (wall - after, wall - before)
}

#[test]
fn ping_and_clocks_go_on() {
    seam::require(&[Need::Tap, Need::VhostNet]);
    apart(|| {
        let (a, b) = ("gwmova", "gwmovb");
        let bridge = Bridge::new(&[a, b], false).expect("a bridge with two taps");
        bridge.address("192.168.77.1/24").expect("an address");
        let config = linux::task("godwit.task=net").with(linux::net(a, 1));
        let mut guest = linux::boot(&config, &[]);
        guest.wait_for("godwit: ready net");
        let before = wall_offset(&mut guest);
        guest.run(SAMPLE);

        let ping = Command::new("timeout")
            .args([
                "--signal=INT",
                "150",
                "ping",
                "-i",
                "0.2",
                "-c",
                "600",
                "-W",
                "5",
                "192.168.77.2",
            ])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("ping");
        thread::sleep(Duration::from_secs(4));
        let moved = linux::migrate(
            guest,
            &json!({"net": [{"id": "net0", "tap": b}]}),
            &json!({}),
        );
        let took = (moved.arrived - moved.asked).as_secs_f64();
        println!("moved in {took:.1} s: {}", moved.progress);
        let mut guest = moved.at;
        // However long the move took, some come after it.
        thread::sleep(Duration::from_secs(5));
        let pid = Pid::from_raw(ping.id().cast_signed());
        kill(pid, Signal::SIGINT).expect("ending ping");
        let pinged = ping.wait_with_output().expect("ping");
        let text = String::from_utf8_lossy(&pinged.stdout);
        println!(
            "{}",
            text.lines().rev().take(3).collect::<Vec<_>>().join("\n")
        );
        let answers = text.lines().filter_map(|line| {
            let (_, after) = line.split_once("icmp_seq=")?;
            after.split_whitespace().next()?.parse::<u64>().ok()
        });
        let answers: Vec<_> = answers.collect();
        let last = *answers.last().expect("an answer");
        // The last ones are after the move, and none of them is missing.
        for sequence in last - 9..=last {
            assert!(answers.contains(&sequence), "{text}");
        }

        guest.run("touch /run/enough");
        let judged = guest.run(JUDGE);
        println!("{judged}");
        let line = judged
            .lines()
            .find_map(|line| line.trim().strip_prefix("judged "));
        let numbers = line.unwrap_or_default().split_whitespace();
        let numbers: Vec<f64> = numbers.filter_map(|n| n.parse().ok()).collect();
        let [samples, smallest, largest, strayed] = numbers[..] else {
            panic!("four numbers, not {judged:?}")
        };
        assert!(samples > 20.0, "{judged}");
        // Never back, and no jump: not longer than the whole move, which the guest ran through.
        assert!(smallest >= 0.0 && largest < took + 5.0, "{judged}");
        // Read one after the other by two programs on a busy machine: not at one instant.
        assert!(strayed < 5.0, "{judged}");
        let after = wall_offset(&mut guest);
        println!("guest's wall clock less the host's: {before:?}, then {after:?}");
        assert!(
            after.0 < before.1 + 1.0 && after.1 > before.0 - 1.0,
            "{before:?}, then {after:?}"
        );
        guest.type_in("stop\n");
        guest.ended(0);
    });
}

/// Numbered blocks of 512 bytes, each on the disk before the next.
const BLOCKS: usize = 200;

#[test]
fn a_disk_is_written_through_a_move() {
    let scratch = Scratch::new();
    let path = scratch.write("disk.img", vec![0; 4 << 20]);
    let config = linux::task("godwit.task=serve").with(json!({"disks": [{"path": path}]}));
    let mut guest = linux::boot(&config, &[]);
    guest.wait_for("godwit: ready serve");
    guest.run(&format!(
        "( i=0; while [ $i -lt {BLOCKS} ]; do printf '%-512d' $i | \
         dd of=/dev/vda bs=512 seek=$i conv=notrunc,fsync 2>/dev/null || echo $i >>/run/failed; \
         echo $i >/run/at; i=$((i+1)); usleep 20000; done; echo finished >/run/at ) &"
    ));
    let at = |guest: &mut crate::support::daemon::Daemon| guest.run("cat /run/at");
    while at(&mut guest).contains("No such file") {
        thread::sleep(Duration::from_millis(100));
    }
    let mut guest = linux::migrate(guest, &json!({}), &json!({})).at;
    let first = at(&mut guest);
    println!("it wrote block {first} when it was asked after the move");
    assert!(
        !first.contains("finished"),
        "all was written before it moved"
    );
    while !at(&mut guest).contains("finished") {
        thread::sleep(Duration::from_millis(500));
    }
    let failed = guest.run("cat /run/failed");
    assert!(failed.contains("No such file"), "failed: {failed}");
    guest.type_in("stop\n");
    guest.ended(0);
    let disk = fs::read(&path).expect("the image");
    for (index, block) in disk.chunks(512).take(BLOCKS).enumerate() {
        let text = String::from_utf8_lossy(block);
        assert_eq!(text.trim_end(), index.to_string(), "block {index}");
    }
}

#[test]
fn the_vmm_is_replaced_under_a_guest_and_its_tap_stays() {
    seam::require(&[Need::Tap, Need::VhostNet]);
    apart(|| {
        let tap = "gwstay";
        let bridge = Bridge::new(&[tap], true).expect("a bridge with a tap");
        bridge.address("192.168.77.1/24").expect("an address");
        let config = linux::task("godwit.task=net")
            .with(linux::net(tap, 2))
            .with(json!({"cpus": {"boot_vcpus": 2}}));
        let mut guest = linux::boot(&config, &[]);
        guest.wait_for("godwit: ready net");
        let ping = Command::new("timeout")
            .args(["40", "ping", "-i", "0.2", "-c", "50", "-W", "5"])
            .arg("192.168.77.2")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("ping");
        thread::sleep(Duration::from_secs(3));
        // Twice: what was taken over is handed over in its turn.
        for _ in 0..2 {
            let moved = linux::migrate(guest, &json!({}), &json!({"local": true}));
            println!("handed over: {}", moved.left);
            guest = moved.at;
        }
        let pinged = ping.wait_with_output().expect("ping");
        let text = String::from_utf8_lossy(&pinged.stdout);
        println!(
            "{}",
            text.lines().rev().take(3).collect::<Vec<_>>().join("\n")
        );
        for sequence in 41..=50 {
            assert!(text.contains(&format!("icmp_seq={sequence} ")), "{text}");
        }
        // Both queue pairs are the guest's still, and the interface knows its offloads.
        let queues = guest.run("ls -d /sys/class/net/eth0/queues/tx-*");
        assert_eq!(queues.split_whitespace().count(), 2, "{queues}");
        guest.type_in("stop\n");
        guest.ended(0);
    });
}
