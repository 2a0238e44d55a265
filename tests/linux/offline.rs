//! A host CPU that is there, and offline. No Linux guest is booted: the test is here because its
//! host should be the lab's.

use std::env;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::refusal::{refused_in, with_socket};
use crate::support::config::Config;
use crate::support::namespace::{apart, run};
use crate::support::scratch::Scratch;
use crate::support::vm;

const CPUS: &str = "/sys/devices/system/cpu";

/// CPU 1 without power, until dropped.
///
/// Anywhere but in the lab, the kernel would take the CPU for good from whatever is pinned to it:
/// there, only the list of online CPUs is another one, in the namespace of the test.
struct Offline {
    really: bool,
}

impl Offline {
    fn cpu1(scratch: &Scratch) -> Self {
        let really = env::var("GODWIT_RUNNER").is_ok_and(|runner| runner == "lab");
        if really {
            Self::set_online("0");
        } else {
            let list = scratch.write("online", "0\n");
            let online = format!("{CPUS}/online");
            run("mount", &["--bind", &list.to_string_lossy(), &online]);
        }
        Self { really }
    }

    fn set_online(value: &str) {
        let file = Path::new(CPUS).join("cpu1/online");
        fs::write(&file, value).unwrap_or_else(|error| panic!("needs {}: {error}", file.display()));
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        if self.really {
            Self::set_online("1");
        } else {
            run("umount", &[&format!("{CPUS}/online")]);
        }
    }
}

#[test]
fn an_affinity_to_an_offline_cpu_is_refused() {
    apart(|| {
        let scratch = Scratch::new();
        let config = Config::new("poweroff")
            .with(json!({"cpus": {"affinity": [{"vcpu": 0, "host_cpus": [1]}]}}));
        let offline = Offline::cpu1(&scratch);
        let text = with_socket(&scratch, config.clone()).to_json();
        let online = fs::read_to_string(format!("{CPUS}/online")).expect("the online CPUs");
        let words = format!("CPU 1 is offline; online are {};", online.trim());
        refused_in(&scratch, &text, &["cpus.affinity[0].host_cpus:", &words]);
        drop(offline);
        // The same machine with the CPU.
        vm::run_to_power_off(config);
    });
}
