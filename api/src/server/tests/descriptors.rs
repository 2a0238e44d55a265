//! File descriptors beside a request.

use super::raw::{PING, files, put};
use super::serve;

#[test]
fn descriptors_may_come_with_any_part() {
    let fixture = serve();
    let mut client = fixture.connect();
    let request = put("vm.add-net", r#"{"id":"n","num_queues":4}"#);
    for cut in [1, 5, 40, request.len() - 26, request.len() - 1] {
        let files = files("ab");
        let (before, after) = request.split_at(cut);
        // With the first part.
        client.send_with(before, &files);
        client.send(after);
        assert_eq!(client.answer().text(), r#"{"id":"n","bdf":"ab"}"#);
        // With the second part.
        client.send(before);
        client.send_with(after, &files);
        assert_eq!(client.answer().text(), r#"{"id":"n","bdf":"ab"}"#);
        // One with each.
        client.send_with(before, &files[..1]);
        client.send_with(after, &files[1..]);
        assert_eq!(client.answer().text(), r#"{"id":"n","bdf":"ab"}"#);
    }
}

#[test]
fn each_request_has_its_own() {
    let fixture = serve();
    let mut client = fixture.connect();
    let request = put("vm.add-net", r#"{"id":"n"}"#);
    for letter in ["a", "b", "c"] {
        client.send_with(&request, &files(letter));
        let expected = format!(r#"{{"id":"n","bdf":"{letter}"}}"#);
        assert_eq!(client.answer().text(), expected);
        assert_eq!(client.ask(&request).text(), r#"{"id":"n","bdf":""}"#);
    }
}

#[test]
fn each_of_many_requests_sent_at_once_has_its_own() {
    let fixture = serve();
    let mut client = fixture.connect();
    let request = put("vm.add-net", r#"{"id":"n"}"#);
    // The kernel hands out the first two in one read.
    for _ in 0..20 {
        client.send(&request);
        client.send_with(&request, &files("a"));
        client.send(PING);
        client.send_with(&request, &files("b"));
    }
    for _ in 0..20 {
        assert_eq!(client.answer().text(), r#"{"id":"n","bdf":""}"#);
        assert_eq!(client.answer().text(), r#"{"id":"n","bdf":"a"}"#);
        assert_eq!(client.answer().line, "HTTP/1.1 200 ");
        assert_eq!(client.answer().text(), r#"{"id":"n","bdf":"b"}"#);
    }
}

#[test]
fn a_wrong_number_of_them_is_refused_and_they_are_closed() {
    let fixture = serve();
    let mut client = fixture.connect();
    for (name, body, letters, reason) in [
        (
            "vm.add-net",
            r#"{"num_queues":4}"#,
            "a",
            "1 file descriptors came for num_queues 4",
        ),
        (
            "vm.add-net",
            "{}",
            "ab",
            "2 file descriptors came for num_queues 2",
        ),
        (
            "vm.shutdown",
            "",
            "a",
            "this route takes no file descriptors, and 1 came",
        ),
        (
            "vm.create",
            "{}",
            "a",
            "this route takes no file descriptors, and 1 came",
        ),
        (
            "vm.restore",
            r#"{"source_url":"file:///x","net_fds":[{"id":"n","num_fds":2}]}"#,
            "a",
            "net_fds asks for 2 file descriptors, and 1 came",
        ),
    ] {
        // A pipe tells when its other end is closed everywhere.
        let (reader, writer) = std::io::pipe().unwrap();
        let mut files = files(letters);
        files.pop();
        files.push(std::os::fd::OwnedFd::from(writer).into());
        client.send_with(&put(name, body), &files);
        let got = client.answer();
        assert_eq!(got.line, "HTTP/1.1 400 ");
        assert!(got.chain()[0].starts_with(reason), "{got:?}");
        drop(files);
        let rest = std::io::read_to_string(reader).unwrap();
        assert_eq!(rest, "");
    }
    assert_eq!(client.ask(PING).line, "HTTP/1.1 200 ");
}

#[test]
fn there_may_be_64_and_no_more() {
    let fixture = serve();
    let letters = "x".repeat(65);
    let body = r#"{"id":"n","num_queues":128}"#;
    let request = put("vm.add-net", body);
    let mut client = fixture.connect();
    client.send_with(&request, &files(&letters[..64]));
    assert!(client.answer().text().contains(&letters[..64]));
    // In one message.
    client.send_with(&request, &files(&letters));
    let got = client.answer();
    assert_eq!(got.line, "HTTP/1.1 400 ");
    assert!(got.chain()[0].starts_with("more than 64"), "{got:?}");
    // In two.
    let (before, after) = request.split_at(30);
    client.send_with(before, &files(&letters[..64]));
    client.send_with(after, &files("x"));
    assert_eq!(client.answer().line, "HTTP/1.1 400 ");
    assert_eq!(client.ask(PING).line, "HTTP/1.1 200 ");
}
