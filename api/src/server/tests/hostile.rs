//! Clients that do what they should not.

use std::time::Duration;

use proptest::prelude::*;

use super::raw::{PING, Raw, put};
use super::{Fixture, Limits, serve, serve_with};
use crate::json::MAX_DOCUMENT_BYTES;

#[test]
fn a_body_of_4_mib_is_read_and_one_byte_more_is_refused() {
    let fixture = serve();
    let mut client = fixture.connect();
    let body = |length: usize| format!("{{\"id\":\"x\"}}{}", " ".repeat(length - 10));
    let got = client.ask(&put("vm.remove-device", &body(MAX_DOCUMENT_BYTES)));
    assert_eq!(got.chain(), ["no device x"]);
    let got = client.ask(&put("vm.remove-device", &body(MAX_DOCUMENT_BYTES + 1)));
    assert_eq!(got.line, "HTTP/1.1 400 ");
    assert_eq!(got.chain(), ["the body is larger than 4 MiB"]);
    assert!(client.is_closed());
}

#[test]
fn a_body_that_is_far_too_large_is_refused_before_it_comes() {
    let fixture = serve();
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut client = fixture.connect();
        let length = if expect.is_empty() {
            u64::MAX / 2
        } else {
            5 << 20
        };
        let got = client.ask(
            format!("PUT /api/v1/vm.create HTTP/1.1\r\n{expect}Content-Length: {length}\r\n\r\n")
                .as_bytes(),
        );
        assert_eq!(got.line, "HTTP/1.1 400 ");
        assert!(client.is_closed());
    }
}

#[test]
fn headers_that_are_too_large_or_too_many_are_refused() {
    let fixture = serve();
    let large = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(70 << 10));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(66_000));
    let empty = "\r\n".repeat(40 << 10);
    for request in [large, many, long, empty] {
        let mut client = fixture.connect();
        drop(client.try_send(request.as_bytes()));
        assert_refused(&mut client);
    }
}

#[test]
fn what_is_no_http_is_refused_and_the_connection_closed() {
    let fixture = serve();
    for garbage in [
        &b"hello\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
    ] {
        let mut client = fixture.connect();
        client.send(garbage);
        assert_refused(&mut client);
        // And after a request that was right.
        let mut client = fixture.connect();
        client.send(&[PING, garbage].concat());
        assert_eq!(client.answer().line, "HTTP/1.1 200 ");
        assert_refused(&mut client);
    }
}

fn assert_refused(client: &mut Raw) {
    let got = client.answer();
    assert_eq!(got.line, "HTTP/1.1 400 ");
    assert_eq!(got.header("Connection"), Some("close"));
    assert_eq!(got.chain().len(), 1);
    assert!(client.is_closed());
}

fn hasty() -> Fixture {
    serve_with(Limits {
        head: Duration::from_millis(300),
        body_pause: Duration::from_millis(300),
        body: Duration::from_millis(900),
        ..Limits::default()
    })
}

#[test]
fn a_client_that_never_ends_its_headers_is_cut_off() {
    let fixture = hasty();
    let mut client = fixture.connect();
    client.send(b"GET / HTTP/1.1\r\n");
    assert!(client.is_closed());
    // Nor does a byte now and then help.
    let mut client = fixture.connect();
    client.send(b"GET / HTTP/1.1\r\n");
    let cut_off = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        client.try_send(b"a: b\r\n").is_err()
    });
    assert!(cut_off);
}

#[test]
fn a_client_that_never_ends_its_body_is_told_and_cut_off() {
    let fixture = hasty();
    let mut client = fixture.connect();
    client.send(b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 100\r\n\r\n{");
    let got = client.answer();
    assert_eq!(got.line, "HTTP/1.1 400 ");
    assert!(
        got.chain()[0].contains("did not come in time: 1 bytes"),
        "{got:?}"
    );
    assert!(client.is_closed());
    let mut client = fixture.connect();
    client.send(b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 100000\r\n\r\n{");
    let cut_off = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        client.try_send(b" ").is_err()
    });
    assert!(cut_off);
}

#[test]
fn a_client_that_leaves_amid_a_request_harms_nobody() {
    let fixture = serve();
    for cut in 0..60 {
        let request = put("vm.remove-device", r#"{"id":"x"}"#);
        fixture.connect().send(&request[..cut]);
    }
    assert_eq!(fixture.connect().ask(PING).line, "HTTP/1.1 200 ");
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let fixture = serve_with(Limits {
        write: Duration::from_millis(300),
        ..Limits::default()
    });
    let mut client = fixture.connect();
    client.send(&b"GET /metrics HTTP/1.1\r\n\r\n".repeat(10));
    std::thread::sleep(Duration::from_secs(2));
    let whole = 10 * 500_000;
    assert!(client.drain().len() < whole);
    assert_eq!(fixture.connect().ask(PING).line, "HTTP/1.1 200 ");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn garbage_is_answered_or_cut_off(garbage in garbage()) {
        thread_local! {
            static FIXTURE: Fixture = serve();
        }
        FIXTURE.with(|fixture| {
            let mut client = fixture.connect();
            drop(client.try_send(&garbage));
            client.finish();
            let bytes = client.drain();
            // One answer or several or none, each ours.
            assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 "), "{bytes:?}");
            assert!(bytes.is_ascii());
            assert_eq!(fixture.connect().ask(PING).line, "HTTP/1.1 200 ");
        });
    }
}

fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(PING.to_vec()),
        Just(b"PUT /api/v1/vm.add-net HTTP/1.1\r\n".to_vec()),
        Just(b"Content-Length: 3\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"Expect: 100-continue\r\n".to_vec()),
        Just(b"Connection: close\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"{}".to_vec()),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}
