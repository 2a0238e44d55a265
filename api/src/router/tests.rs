use std::fs::File;

use proptest::prelude::*;

use super::*;
use crate::request::{Endpoint, MemoryMode, TimeoutStrategy, ZeroLines};

fn call<'a>(method: &'a str, path: &'a str, body: &'a str) -> Call<'a> {
    Call {
        method,
        path,
        body: body.as_bytes(),
        fds: Vec::new(),
    }
}

fn put(name: &str, body: &str) -> Result<Routed, ApiError> {
    route(call("PUT", &format!("{PREFIX}{name}"), body))
}

fn asked(name: &str, body: &str) -> Request {
    put(name, body).unwrap().request.unwrap()
}

fn refused(name: &str, body: &str) -> (u16, String) {
    let error = put(name, body).unwrap_err();
    (error.kind().status(), error.to_string())
}

fn null_files(count: usize) -> Vec<OwnedFd> {
    (0..count)
        .map(|_| File::open("/dev/null").unwrap().into())
        .collect()
}

/// The least that each route takes.
fn least(route: &Route) -> &'static str {
    match route.name() {
        "vm.create" | "vm.add-net" => "{}",
        "vm.remove-device" => r#"{"id":"n"}"#,
        "vm.send-migration" => r#"{"destination_url":"tcp:h:1"}"#,
        "vm.receive-migration" => r#"{"receiver_url":"tcp:h:1"}"#,
        "vm.snapshot" => r#"{"destination_url":"file:///s"}"#,
        "vm.restore" => r#"{"source_url":"file:///s"}"#,
        _ => "",
    }
}

#[test]
fn every_route_of_the_table_is_found_by_its_method_alone() {
    for route in ROUTES {
        let method = route.method.as_str();
        let routed = super::route(call(method, route.path, least(route))).unwrap();
        assert_eq!(routed.route.path, route.path);
        assert_eq!(routed.request.is_none(), route.path == "/openapi.json");
        for other in ["GET", "PUT", "POST", "HEAD", "get", ""] {
            if other != method {
                let error = super::route(call(other, route.path, "")).unwrap_err();
                assert_eq!(
                    error.kind(),
                    ErrorKind::BadRequest,
                    "{other} {}",
                    route.path
                );
            }
        }
    }
}

#[test]
fn no_two_routes_have_one_path() {
    let mut paths: Vec<_> = ROUTES.iter().map(|route| route.path).collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), ROUTES.len());
}

#[test]
fn a_body_is_needed_where_one_is_taken_and_refused_elsewhere() {
    for route in ROUTES {
        let method = route.method.as_str();
        let error = match route.input {
            Input::Json { .. } => super::route(call(method, route.path, "")),
            _ => super::route(call(method, route.path, "{}")),
        }
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadRequest, "{}", route.path);
    }
}

#[test]
fn what_the_peer_has_and_godwit_lacks_is_said() {
    for name in [
        "vm.resize",
        "vm.resize-zone",
        "vm.resize-disk",
        "vm.add-device",
        "vm.add-disk",
        "vm.add-fs",
        "vm.add-pmem",
        "vm.add-vdpa",
        "vm.add-vsock",
        "vm.add-user-device",
        "vm.add-generic-vhost-user",
        "vm.coredump",
        "vm.nmi",
    ] {
        let error = put(name, "{}").unwrap_err();
        assert_eq!(error.kind().status(), 500);
        assert_eq!(error.chain().0.len(), 2);
        assert_eq!(error.chain().0[0], "not supported by godwit");
    }
}

/// As the peer's command-line client sends it, every default written out.
#[test]
fn the_peers_client_sends_a_migration() {
    let request = asked(
        "vm.send-migration",
        r#"{"destination_url":"tcp:h:4444","local":false,"preserve_source":false,"downtime_ms":200,"timeout_s":3600,"timeout_strategy":"Cancel","connections":8,"tls_dir":null,"memory_mode":"Precopy"}"#,
    );
    let Request::SendMigration(send) = request else {
        panic!("{request:?}");
    };
    let endpoint = Endpoint::Tcp {
        host: "h".to_owned(),
        port: 4444,
    };
    assert_eq!(send.destination_url, endpoint);
    assert_eq!((send.downtime_ms, send.connections), (200, 8));
    let least = asked("vm.send-migration", r#"{"destination_url":"tcp:h:4444"}"#);
    let Request::SendMigration(least) = least else {
        panic!("{least:?}");
    };
    assert_eq!(*least, crate::request::SendMigration::to(endpoint));
    assert_eq!((least.downtime_ms, least.timeout_s), (300, 3600));
    assert_eq!(least.timeout_strategy, TimeoutStrategy::Cancel);
    assert_eq!(least.zero_lines, ZeroLines::Auto);
    assert_eq!(least.memory_mode, MemoryMode::Precopy);
}

#[test]
fn the_peers_client_receives_a_migration() {
    let routed = put(
        "vm.receive-migration",
        r#"{"receiver_url":"tcp:0.0.0.0:4444","tls_dir":null,"memory_mode":"Precopy","vfio_fds":null,"iommufd_fd":null,"zone_updates":[]}"#,
    )
    .unwrap();
    assert_eq!(routed.ignored, []);
    assert!(matches!(
        routed.request,
        Some(Request::ReceiveMigration(..))
    ));
}

/// With a tap for each device, as libvirt's fork sends it.
#[test]
fn descriptors_are_handed_out_in_order() {
    let body = r#"{"receiver_url":"unix:/m","net_fds":[{"id":"a","num_fds":2},{"id":"b"},{"id":"c","num_fds":1}]}"#;
    let mut call = call("PUT", "/api/v1/vm.receive-migration", body);
    call.fds = null_files(3);
    let request = route(call).unwrap().request.unwrap();
    let Request::ReceiveMigration(_, nets) = request else {
        panic!("{request:?}");
    };
    let counts: Vec<_> = nets.iter().map(|net| (&*net.id, net.fds.len())).collect();
    assert_eq!(counts, [("a", 2), ("b", 0), ("c", 1)]);
}

#[test]
fn a_count_beyond_all_bounds_is_refused() {
    let (status, reason) = refused(
        "vm.restore",
        r#"{"source_url":"file:///s","net_fds":[{"id":"a","num_fds":4294967295},{"id":"b","num_fds":4294967295}]}"#,
    );
    assert_eq!(status, 400);
    assert!(reason.contains("8589934590"), "{reason}");
}

#[test]
fn what_is_called_otherwise_here_is_said_when_a_guest_comes() {
    let request = asked(
        "vm.receive-migration",
        r#"{"receiver_url":"tcp:0.0.0.0:4444",
            "net":[{"id":"n0","tap":"tap7"},{"id":"n1","vhost_socket":"/run/v"}],
            "host_numa_nodes":[{"from":0,"to":1}],
            "cpus":{"affinity":[{"vcpu":0,"host_cpus":[6]}],"emulator_cpus":[4]}}"#,
    );
    let Request::ReceiveMigration(receive, _) = request else {
        panic!("{request:?}");
    };
    assert_eq!(receive.net[0].tap.as_deref(), Some("tap7"));
    assert_eq!(receive.net[1].vhost_socket.as_deref(), Some("/run/v"));
    assert_eq!(receive.host_numa_nodes[0].to, 1);
    let cpus = receive.cpus.unwrap();
    assert_eq!(cpus.affinity.unwrap()[0].host_cpus, [6]);
    assert_eq!(cpus.emulator_cpus.unwrap(), [4]);
    assert_eq!(cpus.migration_cpus, None);
}

#[test]
fn a_migration_that_cannot_be_is_refused_with_the_key() {
    for (name, extra, status, key) in [
        (
            "vm.send-migration",
            r#""connections":0"#,
            400,
            "connections: 0",
        ),
        (
            "vm.send-migration",
            r#""connections":129"#,
            400,
            "from 1 to 128",
        ),
        (
            "vm.send-migration",
            r#""downtime_ms":0"#,
            400,
            "downtime_ms: 0",
        ),
        ("vm.send-migration", r#""timeout_s":0"#, 400, "timeout_s: 0"),
        (
            "vm.send-migration",
            r#""bandwidth_bps":0"#,
            400,
            "bandwidth_bps: 0",
        ),
        ("vm.send-migration", r#""local":true"#, 400, "local:"),
        (
            "vm.send-migration",
            r#""timeout_strategy":"cancel""#,
            400,
            "did you mean \"Cancel\"",
        ),
        (
            "vm.send-migration",
            r#""zero_lines":"maybe""#,
            400,
            "zero_lines",
        ),
        (
            "vm.send-migration",
            r#""preserve_source":true"#,
            500,
            "preserve_source",
        ),
        (
            "vm.send-migration",
            r#""memory_mode":"Postcopy""#,
            500,
            "memory_mode",
        ),
        (
            "vm.receive-migration",
            r#""memory_mode":"Postcopy""#,
            500,
            "memory_mode",
        ),
        (
            "vm.receive-migration",
            r#""zone_updates":[{"id":"z","host_numa_node":1}]"#,
            500,
            "host_numa_nodes",
        ),
        (
            "vm.receive-migration",
            r#""vfio_fds":[{"id":"v"}]"#,
            500,
            "vfio_fds",
        ),
        (
            "vm.receive-migration",
            r#""iommufd_fd":3"#,
            500,
            "iommufd_fd",
        ),
    ] {
        let url = match name {
            "vm.send-migration" => "destination_url",
            _ => "receiver_url",
        };
        let (got, reason) = refused(name, &format!(r#"{{"{url}":"tcp:h:1",{extra}}}"#));
        assert_eq!(got, status, "{extra}: {reason}");
        assert!(reason.contains(key), "{extra}: {reason}");
    }
    let (status, reason) = refused(
        "vm.send-migration",
        r#"{"destination_url":"unix:/m","tls_dir":"/t"}"#,
    );
    assert_eq!(status, 400);
    assert!(reason.contains("tls_dir"), "{reason}");
    let (_, reason) = refused("vm.send-migration", r#"{"destination_url":"h:1"}"#);
    assert!(reason.contains("destination_url: "), "{reason}");
}

/// As the peer's command-line client sends it, and as libvirt does.
#[test]
fn the_peers_clients_add_a_network_device() {
    let request = asked(
        "vm.add-net",
        r#"{"pci_segment":0,"tap":"t0","mac":"52:54:00:00:00:01","num_queues":4,"queue_size":256,"vhost_user":false,"vhost_mode":"Client","offload_tso":true,"offload_ufo":true,"offload_csum":true}"#,
    );
    assert!(matches!(&request, Request::AddNet(net, fds) if net.num_queues == 4 && fds.is_empty()));
    let body = r#"{"id":"net_0","mac":"52:54:00:00:00:01","num_queues":2,"queue_size":256,"mtu":1500,"fds":[9]}"#;
    let mut call = call("PUT", "/api/v1/vm.add-net", body);
    call.fds = null_files(1);
    let request = route(call).unwrap().request.unwrap();
    assert!(matches!(&request, Request::AddNet(net, fds) if net.fds.is_none() && fds.len() == 1));
}

/// All keys that libvirt sends.
#[test]
fn libvirt_creates_a_machine() {
    let routed = put(
        "vm.create",
        r#"{"console":{"mode":"Pty"},
            "serial":{"mode":"Pty"},
            "cpus":{"boot_vcpus":4,"max_vcpus":4},
            "memory":{"size":4294967296},
            "payload":{"kernel":"K","cmdline":"C","initramfs":"I"},
            "disks":[{"path":"D","readonly":true}],
            "devices":[{"path":"/sys/bus/pci/devices/0000:3b:00.1/"}]}"#,
    )
    .unwrap();
    assert_eq!(routed.ignored, []);
    let Some(Request::Create(config)) = routed.request else {
        panic!("{routed:?}");
    };
    assert_eq!(config.cpus.boot_vcpus, 4);
    let restore = r#"{"source_url":"file:///D","net_fds":[]}"#;
    assert!(matches!(asked("vm.restore", restore), Request::Restore(..)));
}

/// With dead keys, misplaced keys and nulls.
#[test]
fn kata_creates_a_machine() {
    let routed = put(
        "vm.create",
        r#"{"cpus":{"boot_vcpus":1,"max_vcpus":8,"topology":{"threads_per_core":1,"cores_per_die":8,"dies_per_package":1,"packages":1},"kvm_hyperv":false,"nested":true},
            "memory":{"size":2147483648,"hotplug_size":67108864000,"mergeable":false,"hotplug_method":"Acpi","shared":true,"hugepages":true,"prefault":false,"thp":true},
            "payload":{"kernel":"K","cmdline":"quiet","mrconfigid":null},
            "disks":[{"path":"IMG","readonly":true,"direct":false,"iommu":false,"num_queues":1,"queue_size":128,"vhost_user":false,"backing_files":false,"sparse":true,"image_type":"Raw"}],
            "rng":{"src":"/dev/urandom","iommu":false},
            "fs":[{"tag":"kataShared","socket":"S","num_queues":1,"queue_size":1024,"pci_segment":1}],
            "serial":{"mode":"Off","iommu":false},"console":{"mode":"Off","iommu":false},
            "vsock":{"cid":3,"socket":"V","iommu":false},
            "platform":{"num_pci_segments":2,"tdx":false,"sev_snp":false,"iommu_address_width":48},
            "balloon":null,
            "iommu":false,"watchdog":false,"pvpanic":false,"landlock_enable":false}"#,
    )
    .unwrap();
    let ignored: Vec<_> = routed.ignored.iter().map(|field| &*field.path).collect();
    assert_eq!(
        ignored,
        ["payload.mrconfigid", "platform.iommu_address_width"]
    );
}

proptest! {
    #[test]
    fn any_call_is_routed_or_refused(
        method in "(GET|PUT|\\PC{0,8})",
        path in prop_oneof![
            (0..ROUTES.len()).prop_map(|at| ROUTES[at].path.to_owned()),
            "/api/v1/\\PC{0,20}",
            "\\PC{0,200}",
        ],
        body in prop::collection::vec(any::<u8>(), 0..60),
        count in 0usize..3,
    ) {
        let call = Call { method: &method, path: &path, body: &body, fds: null_files(count) };
        if let Err(error) = route(call) {
            prop_assert!(!error.chain().0.is_empty());
            prop_assert!(error.to_string().len() < 2000);
        }
    }
}
