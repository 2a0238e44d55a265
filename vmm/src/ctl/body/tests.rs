use godwit_api::router::ROUTES;
use serde_json::json;

use super::*;

fn make(name: &str, words: &[&str], bare: Bare) -> Result<Value, String> {
    let route = ROUTES.iter().find(|route| route.name() == name).unwrap();
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let body = from_words(route, &words, bare).map_err(|error| error.to_string())?;
    Ok(serde_json::from_slice(&body).unwrap())
}

#[test]
fn words_take_the_types_of_their_fields() {
    let body = make(
        "vm.create",
        &[
            "payload.kernel=/boot/vmlinux",
            "payload.cmdline=console=ttyS0,115200 root=/dev/vda,x=1",
            "memory.size=4G",
            "memory.hugepages=on",
            "cpus.boot_vcpus=2",
            "cpus.affinity.1.vcpu=1",
            "cpus.affinity.1.host_cpus=3,4",
            "cpus.affinity.0={\"vcpu\": 0, \"host_cpus\": [2]}",
            "serial.mode=Null",
            "platform.emulator_cpus=0",
            "net.0.tap=123",
        ],
        Bare::File,
    );
    let expected = json!({
        "payload": {
            "kernel": "/boot/vmlinux",
            "cmdline": "console=ttyS0,115200 root=/dev/vda,x=1",
        },
        "memory": {"size": 4_u64 << 30, "hugepages": true},
        "cpus": {"boot_vcpus": 2, "affinity": [
            {"vcpu": 0, "host_cpus": [2]},
            {"vcpu": 1, "host_cpus": [3, 4]},
        ]},
        "serial": {"mode": "Null"},
        "platform": {"emulator_cpus": [0]},
        "net": [{"tap": "123"}],
    });
    assert_eq!(body.unwrap(), expected);
}

#[test]
fn a_word_of_the_peers_client_is_several() {
    let words = ["tap=t0,mac=52:54:00:00:00:01,num_queues=4,worker_cpus=1,2,mtu=1500"];
    assert_eq!(
        make("vm.add-net", &words, Bare::None).unwrap(),
        json!({"tap": "t0", "mac": "52:54:00:00:00:01", "num_queues": 4,
               "worker_cpus": [1, 2], "mtu": 1500})
    );
}

#[test]
fn words_lie_over_json() {
    let words = [r#"{"id": "a", "mtu": 1280}"#, "mtu=1500", "tap=t"];
    assert_eq!(
        make("vm.add-net", &words, Bare::None).unwrap(),
        json!({"id": "a", "mtu": 1500, "tap": "t"})
    );
}

#[test]
fn bare_words_have_their_field() {
    let to = |words: &[&str]| make("vm.send-migration", words, Bare::Text("destination_url"));
    assert_eq!(
        to(&["tcp:h:1", "connections=8,downtime_ms=50"]).unwrap(),
        json!({"destination_url": "tcp:h:1", "connections": 8, "downtime_ms": 50})
    );
    assert_eq!(
        to(&["destination_url=unix:/a=b,local=on"]).unwrap(),
        json!({"destination_url": "unix:/a=b", "local": true})
    );
    assert_eq!(
        make("vm.snapshot", &["/x"], Bare::Folder("destination_url")).unwrap(),
        json!({"destination_url": "file:///x"})
    );
}

#[test]
fn a_file_is_read_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("godwit-body.json");
    std::fs::write(&path, "{\"id\" :\n1}").unwrap();
    let route = ROUTES.iter().find(|r| r.name() == "vm.create").unwrap();
    for word in [format!("@{}", path.display()), path.display().to_string()] {
        let body = from_words(route, &[word], Bare::File).unwrap();
        assert_eq!(body, b"{\"id\" :\n1}");
    }
    std::fs::remove_file(&path).unwrap();
    let error = from_words(route, &[path.display().to_string()], Bare::File).unwrap_err();
    assert!(error.to_string().contains("godwit-body"), "{error}");
}

#[test]
fn mistakes_are_named() {
    for (words, said) in [
        (&["tpa=x"][..], "there is no \"tpa\" among"),
        (&["num_queues=two"], "num_queues=two: it is a whole number"),
        (&["mtu=99999999999T"], "larger than 64 bits"),
        (&["iommu=maybe"], "true or false"),
        (&["tap"], "neither JSON nor KEY=VALUE"),
        (&["tap.x=1"], "what comes before \"x\" has no fields"),
        (&["fds.x=1"], "must be an index"),
        (&["fds.99999=1"], "no place for it"),
        (&["fds=[1"], "it is no JSON"),
        (&["tap=x", "{}"], "JSON comes once"),
        (&["{}", "{}"], "JSON comes once"),
        (&["{", "tap=x"], "laid over what is no JSON"),
        (&["[1]", "tap=x"], "neither JSON nor KEY=VALUE"),
    ] {
        let error = make("vm.add-net", words, Bare::None).unwrap_err();
        assert!(error.contains(said), "{words:?}: {error}");
    }
    let error = make("vm.create", &["net=tap0"], Bare::File).unwrap_err();
    assert!(error.contains("KEY.0.FIELD=VALUE"), "{error}");
    let error = make("vm.create", &["memory=4G"], Bare::File).unwrap_err();
    assert!(error.contains("KEY.FIELD=VALUE"), "{error}");
    let typo = make(
        "vm.snapshot",
        &["destination=/x"],
        Bare::Folder("destination_url"),
    );
    assert!(typo.unwrap_err().contains("destination_url"));
}
