//! Network devices, disks, and what is a file.

use super::*;

#[test]
fn net() {
    let net = |fields: Value| {
        let mut device = json!({"tap": "t0"});
        lay_over(&mut device, fields);
        json!({"net": [device]})
    };
    let rings =
        "is not possible; it counts rings, two for each queue pair, so it is even and 2 to 32";
    let sizes = "a queue has 32, 64, 128, 256, 512 or 1024 descriptors";
    assert_refused(&[
        (
            net(json!({"num_queues": 3})),
            &format!("net[0].num_queues: 3 {rings}"),
        ),
        (
            net(json!({"num_queues": 0})),
            &format!("net[0].num_queues: 0 {rings}"),
        ),
        (
            net(json!({"num_queues": 34})),
            &format!("net[0].num_queues: 34 {rings}"),
        ),
        (
            net(json!({"queue_size": 100})),
            &format!("net[0].queue_size: 100 is not a power of two; {sizes}"),
        ),
        (
            net(json!({"queue_size": 2048})),
            &format!("net[0].queue_size: 2048 is out of range; {sizes}"),
        ),
        (
            net(json!({"queue_size": 0})),
            &format!("net[0].queue_size: 0 is not a power of two; {sizes}"),
        ),
        (
            net(json!({"mtu": 576})),
            "net[0].mtu: 576 bytes are out of range; 1280 to 65521 are possible",
        ),
        (
            net(json!({"mac": "01:00:5e:00:00:01"})),
            "net[0].mac: \"01:00:5e:00:00:01\" is a multicast address (the lowest bit of its \
             first octet is set); a device needs a unicast one, such as 52:54:00:12:34:56",
        ),
        (
            net(json!({"mac": "52:54"})),
            "net[0].mac: \"52:54\" is not a MAC address; write it as 52:54:00:12:34:56",
        ),
        (
            net(json!({"tap": null})),
            "net[0].tap: missing; name a tap interface, made so: ip tuntap add NAME mode tap \
             vnet_hdr (with multi_queue for more than one pair)",
        ),
        (
            net(json!({"tap": "a-name-that-is-too-long"})),
            "net[0].tap: \"a-name-that-is-too-long\" cannot be an interface's name; it has 1 to \
             15 printable characters and none of / : %",
        ),
        (
            net(json!({"fds": [4]})),
            "net[0].fds: given beside \"tap\"; give one of the two",
        ),
        (
            net(json!({"tap": null, "fds": [4], "num_queues": 4})),
            "net[0].fds: 1 given, but num_queues 4 are 2 queue pairs; give one descriptor for \
             each pair",
        ),
        (
            net(json!({"tap": null, "fds": [1]})),
            "net[0].fds: 1 cannot be a tap; 0 to 2 are standard input, output and error",
        ),
        (
            net(json!({"tap": null, "vhost_user": true, "vhost_socket": "s"})),
            "net[0].vhost_user: vhost-user is not supported yet; give a tap, which vhost-net \
             serves",
        ),
        (
            net(json!({"vhost_net": false})),
            "net[0].vhost_net: false, but a tap is served by the kernel's vhost-net only; leave \
             it out",
        ),
        (
            net(json!({"ip": "10.0.0.1"})),
            "net[0].ip: \"10.0.0.1\": godwit sets no address on a tap; leave it out and use: \
             ip addr add … dev t0",
        ),
        (
            net(json!({"offload_csum": false, "offload_ufo": false})),
            "net[0].offload_tso: true, but offload_csum is false, and one needs the other; set \
             this one to false too",
        ),
        (
            net(json!({"iommu": true})),
            "net[0].iommu: a virtual IOMMU is not supported by godwit; leave the field out",
        ),
        (
            json!({"net": [{"tap": "a", "mac": "52:54:00:00:00:01"},
                           {"tap": "b", "mac": "52:54:00:00:00:01"}]}),
            "net[1].mac: net[0] has 52:54:00:00:00:01 too; addresses must differ",
        ),
        (
            json!({"net": [{"tap": "a"}, {"tap": "a"}]}),
            "net[1].tap: net[0] is on \"a\" too; each device needs a tap of its own",
        ),
    ]);
}

#[test]
fn ids() {
    let ids = |net: &str, disk: &str| json!({"net": [{"tap": "t", "id": net}], "disks": [{"path": "@/disk", "id": disk}]});
    assert_refused(&[
        (
            ids("a", "a"),
            "disks[0].id: another device is named \"a\"; names must differ",
        ),
        (
            ids("__rng", "a"),
            "net[0].id: \"__rng\" begins with \"__\", which is kept for built-in devices",
        ),
        (ids("", "a"), "net[0].id: 0 bytes; a name has 1 to 64"),
        (
            ids("a", "b c"),
            "disks[0].id: \"b c\" holds ' '; a name is printable ASCII without spaces and slashes",
        ),
    ]);
    let error = Files::new().spec(ids("a", "a")).unwrap_err();
    assert_eq!(error.problems()[0].kind, ProblemKind::Duplicate);
}

#[test]
fn disks() {
    let disk = |fields: Value| {
        let mut device = json!({"path": "@/disk"});
        lay_over(&mut device, fields);
        json!({"disks": [device]})
    };
    assert_refused(&[
        (
            disk(json!({"path": null})),
            "disks[0].path: missing; name a raw image or a block device",
        ),
        (
            disk(json!({"path": "@/nothing"})),
            "disks[0].path: @/nothing is not there",
        ),
        (
            disk(json!({"path": "/"})),
            "disks[0].path: / is a directory, not a raw image or block device",
        ),
        (
            disk(json!({"sparse": false})),
            "disks[0].sparse: false is not supported: blocks that the guest discards are given back to the file \
             system; leave it out",
        ),
        (
            disk(json!({"num_queues": 17})),
            "disks[0].num_queues: 17 is out of range; a disk has 1 to 16 queues",
        ),
        (
            disk(json!({"serial": "a-serial-number-of-22b"})),
            "disks[0].serial: 22 bytes are too long; the guest reads 20",
        ),
        (
            disk(json!({"image_type": "Qcow2"})),
            "disks[0].image_type: an image that is not \"Raw\" is not supported by godwit; convert \
             it: qemu-img convert -O raw",
        ),
        (
            json!({"disks": [{"path": "@/disk"}, {"path": "@/disk", "readonly": true}]}),
            "disks[1].path: disks[0] has the same image, and one of them writes; give each its \
             own, or make both readonly",
        ),
    ]);
}

#[test]
fn character_devices() {
    assert_refused(&[
        (
            json!({"serial": {"mode": "File"}}),
            "serial.file: missing; mode \"File\" needs a path",
        ),
        (
            json!({"serial": {"mode": "File", "file": "@/no/log"}}),
            "serial.file: the directory @/no is not there",
        ),
        (
            json!({"serial": {"mode": "File", "file": "/"}}),
            "serial.file: / names no file",
        ),
        (
            json!({"serial": {"mode": "Tty", "socket": "s"}}),
            "serial.socket: set, but the mode is Tty; leave it out, or set the mode to \"Socket\"",
        ),
        (
            json!({"serial": {"mode": "Socket", "socket": format!("/{}", "x".repeat(107))}}),
            "serial.socket: 108 bytes are too long for a socket's path; the kernel takes 107",
        ),
        (
            json!({"console": {"mode": "Pty"}}),
            "console.mode: a virtio console is not supported yet; set it to \"Off\" and use \
             \"serial\"",
        ),
    ]);
}

#[test]
fn the_rng_source_is_looked_at() {
    assert_refused(&[
        (
            json!({"rng": {"src": "/tmp"}}),
            "rng.src: /tmp is a directory, not a file or character device",
        ),
        (
            json!({"rng": {"src": "/dev/no-such-source"}}),
            "rng.src: /dev/no-such-source is not there",
        ),
    ]);
}
