//! How requests may arrive and what answers look like.

use std::thread::sleep;
use std::time::Duration;

use super::raw::{PING, put};
use super::{Limits, serve, serve_with};

#[test]
fn a_ping_is_answered_to_the_letter() {
    let fixture = serve();
    let got = fixture.connect().ask(PING);
    assert_eq!(got.line, "HTTP/1.1 200 ");
    assert_eq!(
        got.headers,
        ["Content-Type: application/json", "Content-Length: 85"]
    );
    assert_eq!(
        got.text(),
        r#"{"build_version":"v0.1.0-\u00e9\ud835\udd4f","version":"0.1.0","pid":1,"features":[]}"#
    );
}

#[test]
fn nothing_done_has_no_length_and_nothing_else_is_chunked() {
    let fixture = serve();
    let mut client = fixture.connect();
    let got = client.ask(&put("vm.shutdown", ""));
    assert_eq!(got.line, "HTTP/1.1 204 ");
    assert_eq!(got.headers, Vec::<String>::new());
    let got = client.ask(&put("vmm.shutdown", ""));
    assert_eq!(got.line, "HTTP/1.1 200 ");
    assert_eq!(got.headers, ["Content-Length: 0"]);
    let got = client.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(got.header("Content-Length"), Some("500000"));
    assert_eq!(got.header("Transfer-Encoding"), None);
    assert_eq!(
        got.header("Content-Type"),
        Some("text/plain; version=0.0.4")
    );
}

#[test]
fn a_request_may_come_in_single_bytes() {
    let fixture = serve();
    let mut client = fixture.connect();
    for byte in put("vm.add-net", r#"{"id":"né"}"#) {
        client.send(&[byte]);
    }
    assert_eq!(client.answer().text(), r#"{"id":"n\u00e9","bdf":""}"#);
}

#[test]
fn the_peers_client_writes_line_length_and_body_apart() {
    let fixture = serve();
    let mut client = fixture.connect();
    for _ in 0..2 {
        for part in [
            "PUT /api/v1/vm.remove-device HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n",
            "Content-Length: 10\r\n",
            "\r\n",
            "{\"id\":",
            "\"x\"}",
        ] {
            client.send(part.as_bytes());
            sleep(Duration::from_millis(5));
        }
        let got = client.answer();
        assert_eq!(got.line, "HTTP/1.1 404 ");
        assert_eq!(got.chain(), ["no device x"]);
    }
}

#[test]
fn expect_is_answered_before_the_body_comes() {
    let fixture = serve();
    let mut client = fixture.connect();
    let head =
        b"PUT /api/v1/vm.add-net HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n";
    let body = br#"{"id":"n"}"#;
    client.send(head);
    let interim = client.answer();
    assert_eq!(interim.line, "HTTP/1.1 100 ");
    assert_eq!(interim.headers, Vec::<String>::new());
    assert_eq!(client.ask(body).line, "HTTP/1.1 200 ");
    // A client that does not wait for it gets the same.
    client.send(&[&head[..], body].concat());
    let mut got = client.answer();
    if got.line == "HTTP/1.1 100 " {
        got = client.answer();
    }
    assert_eq!(got.text(), r#"{"id":"n","bdf":""}"#);
    assert_eq!(client.ask(PING).line, "HTTP/1.1 200 ");
}

#[test]
fn a_chunked_body_is_read() {
    let fixture = serve();
    let mut client = fixture.connect();
    let got = client.ask(
        b"PUT /api/v1/vm.add-net HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
          5\r\n{\"id\"\r\n5\r\n:\"n\"}\r\n0\r\n\r\n",
    );
    assert_eq!(got.text(), r#"{"id":"n","bdf":""}"#);
    assert_eq!(client.ask(PING).line, "HTTP/1.1 200 ");
}

#[test]
fn requests_may_be_sent_before_the_answers_come() {
    let fixture = serve();
    let mut client = fixture.connect();
    let mut bytes = Vec::new();
    for i in 0..100 {
        bytes.extend(put("vm.add-net", &format!(r#"{{"id":"n{i}"}}"#)));
        bytes.extend(PING);
    }
    client.send(&bytes);
    for i in 0..100 {
        assert_eq!(
            client.answer().text(),
            format!(r#"{{"id":"n{i}","bdf":""}}"#)
        );
        assert!(client.answer().text().starts_with(r#"{"build_version""#));
    }
}

#[test]
fn ten_thousand_requests_on_one_connection() {
    let fixture = serve();
    let mut client = fixture.connect();
    for _ in 0..10_000 {
        assert_eq!(client.ask(PING).line, "HTTP/1.1 200 ");
    }
}

#[test]
fn a_client_that_has_ended_its_side_is_answered() {
    let fixture = serve();
    let mut client = fixture.connect();
    client.send(PING);
    client.finish();
    assert_eq!(client.answer().line, "HTTP/1.1 200 ");
    assert!(client.is_closed());
}

#[test]
fn an_idle_connection_is_kept_longer_than_a_request_may_take() {
    let fixture = serve_with(Limits {
        head: Duration::from_millis(100),
        ..Limits::default()
    });
    let mut client = fixture.connect();
    for end in ["", "\r\n"] {
        assert_eq!(client.ask(PING).line, "HTTP/1.1 200 ");
        client.send(end.as_bytes());
        sleep(Duration::from_millis(400));
    }
    assert_eq!(client.ask(PING).line, "HTTP/1.1 200 ");
}

#[test]
fn close_is_honoured() {
    let fixture = serve();
    let mut client = fixture.connect();
    client.send(b"GET /api/v1/vmm.ping HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(client.answer().line, "HTTP/1.1 200 ");
    assert!(client.is_closed());
}

#[test]
fn refusals_have_their_status_and_their_chain() {
    let fixture = serve();
    let mut client = fixture.connect();
    for (request, status, first) in [
        (put("vm.resume", ""), 500, "cannot resume"),
        (put("vm.no-such", ""), 404, "no route /api/v1/vm.no-such"),
        (
            put("vm.bot", ""),
            404,
            "no route /api/v1/vm.bot; did you mean /api/v1/vm.boot?",
        ),
        (put("vm.resize", "{}"), 500, "not supported by godwit"),
        (
            put("vmm.ping", ""),
            400,
            "/api/v1/vmm.ping is for GET, not for PUT",
        ),
        (
            put("vm.boot", "{}"),
            400,
            "this route takes no body, and 2 bytes came",
        ),
        (put("vm.create", ""), 400, "the body is missing"),
        (put("vm.create", "{"), 400, "the body is not usable"),
        (put("vm.create", "[]"), 400, "the body is not usable"),
        (
            put("vm.create", "\u{feff}{}"),
            400,
            "the body is not usable",
        ),
        (put("vm.pause", ""), 500, "the request was dropped"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 404, "no route /"),
        (
            b"DELETE /api/v1/vm.boot HTTP/1.1\r\n\r\n".to_vec(),
            400,
            "/api/v1/vm.boot is for PUT",
        ),
        (
            b"GET /api/v1/vm.info HTTP/1.1\r\n\r\n".to_vec(),
            404,
            "no machine",
        ),
    ] {
        let got = client.ask(&request);
        assert_eq!(got.line, format!("HTTP/1.1 {status} "), "{got:?}");
        assert!(got.chain()[0].starts_with(first), "{got:?}");
    }
}
