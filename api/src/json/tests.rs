use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(default)]
struct Machine {
    net: Vec<Net>,
    prefault: Option<bool>,
    mode: Mode,
    any: serde_json::Value,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            net: Vec::new(),
            prefault: None,
            mode: Mode::Off,
            any: serde_json::Value::Null,
        }
    }
}

#[derive(Debug, Deserialize, PartialEq)]
struct Net {
    id: String,
    #[serde(default)]
    queue_size: u16,
    #[serde(default)]
    vhost_user: bool,
    #[serde(default)]
    delta: i32,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
enum Mode {
    Off,
    Client,
    Server,
}

fn refused(text: &str) -> String {
    match read_strict::<Machine>(text.as_bytes()) {
        Err(error @ ReadError::Fields(_)) => error.to_string(),
        other => panic!("{text}: {other:?}"),
    }
}

fn syntax(text: &str) -> String {
    match read_strict::<Machine>(text.as_bytes()) {
        Err(ReadError::Syntax(error)) => error.to_string(),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn wrong_types_are_named_with_their_place() {
    for (text, expected) in [
        (
            r#"{"net":[{"id":"n","queue_size":"256"}]}"#,
            r#"net[0].queue_size: expected an integer, got the string "256""#,
        ),
        (
            r#"{"net":[{"id":"a"},{"id":"n","queue_size":70000}]}"#,
            "net[1].queue_size: the integer 70000 is out of range: \
             expected an integer from 0 to 65535",
        ),
        (
            r#"{"net":[{"id":"n","queue_size":-1}]}"#,
            "net[0].queue_size: the integer -1 is out of range: \
             expected an integer from 0 to 65535",
        ),
        (
            r#"{"net":[{"id":"n","delta":4294967296}]}"#,
            "net[0].delta: the integer 4294967296 is out of range: \
             expected an integer from -2147483648 to 2147483647",
        ),
        (
            r#"{"net":[{"id":"n","queue_size":2.0}]}"#,
            "net[0].queue_size: expected an integer, got the number 2.0",
        ),
        (
            r#"{"net":[{"id":7}]}"#,
            "net[0].id: expected a string, got the integer 7",
        ),
        (
            r#"{"net":{"id":"n"}}"#,
            "net: expected an array, got an object",
        ),
        (
            r#"{"net":["n"]}"#,
            r#"net[0]: expected an object, got the string "n""#,
        ),
        (
            r#"{"net":[["n",1]]}"#,
            "net[0]: expected an object, got an array",
        ),
        (r#"{"net":[null]}"#, "net[0]: expected an object, got null"),
        (
            r#"{"prefault":"yes"}"#,
            r#"prefault: expected a boolean, got the string "yes""#,
        ),
        (
            r#"{"mode":1}"#,
            r#"mode: expected one of "Off", "Client", "Server", got the integer 1"#,
        ),
        (
            r#"{"mode":"client"}"#,
            r#"mode: expected one of "Off", "Client", "Server", got "client"; did you mean "Client"?"#,
        ),
        (
            r#"{"mode":"?"}"#,
            r#"mode: expected one of "Off", "Client", "Server", got "?""#,
        ),
        (
            r#"{"net":[{"queue_size":1}]}"#,
            "net[0].id: missing, and it has no default",
        ),
        ("[]", "expected an object, got an array"),
        ("1", "expected an object, got the integer 1"),
    ] {
        assert_eq!(refused(text), expected, "{text}");
    }
}

#[test]
fn unknown_fields_are_named_with_the_nearest_known_one() {
    assert_eq!(
        refused(r#"{"net":[{"id":"n","queue_sise":1}]}"#),
        r#"net[0].queue_sise: unknown field; did you mean "queue_size"?"#
    );
    assert_eq!(
        refused(r#"{"net":[{"id":"n","colour":1}]}"#),
        "net[0].colour: unknown field; \
         the fields here are \"id\", \"queue_size\", \"vhost_user\", \"delta\""
    );
    // A null does not make an unknown name known.
    assert_eq!(
        refused(r#"{"nets":null}"#),
        r#"nets: unknown field; did you mean "net"?"#
    );
}

#[test]
fn all_unknown_fields_are_told_together_with_the_first_wrong_type() {
    let text = refused(r#"{"modus":1,"net":[{"id":"n","xyz":1,"queue_size":true}]}"#);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines.iter().any(|line| line.starts_with("modus:")));
    assert!(lines.iter().any(|line| line.starts_with("net[0].xyz:")));
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("net[0].queue_size:"))
    );
}

#[test]
fn lenient_reports_and_goes_on() {
    let read =
        read_lenient::<Machine>(br#"{"net":[{"id":"n","x":[{"y":1}]}],"z":null,"mode":null}"#)
            .unwrap();
    assert_eq!(read.value.net.len(), 1);
    let paths: Vec<_> = read.ignored.iter().map(|field| &*field.path).collect();
    assert_eq!(paths, ["z", "net[0].x"]);
}

#[test]
fn null_is_absent_in_both() {
    let text = br#"{"net":null,"prefault":null,"mode":null}"#;
    assert_eq!(read_strict::<Machine>(text).unwrap(), Machine::default());
    assert_eq!(
        read_lenient::<Machine>(text).unwrap(),
        Lenient {
            value: Machine::default(),
            ignored: vec![]
        }
    );
    assert_eq!(
        refused(r#"{"net":[{"id":null}]}"#),
        "net[0].id: missing, and it has no default"
    );
}

#[test]
fn a_free_value_is_kept_whole() {
    let read: Machine = read_strict(br#"{"any":{"x":[1,-2,1.5,"s",null,true]}}"#).unwrap();
    assert_eq!(
        read.any,
        serde_json::json!({"x": [1, -2, 1.5, "s", null, true]})
    );
}

#[test]
fn syntax_errors_tell_line_and_column() {
    assert!(syntax("{\n  \"net\": [,]\n}").contains("line 2 column 11"));
    assert!(syntax("").contains("line 1 column 0"));
    assert!(syntax("{} {}").contains("line 1 column 4"));
    assert!(syntax("\u{feff}{}").contains("line 1 column 1"));
    assert!(syntax(&"[".repeat(100_000)).contains("recursion limit"));
}

#[test]
fn a_key_twice_is_an_error_with_its_line() {
    let text = syntax("{\n\"mode\": \"Off\",\n\"mode\": \"Client\"}");
    assert!(
        text.starts_with(r#"the key "mode" is there twice in one object at line 3"#),
        "{text}"
    );
}

#[test]
fn the_size_is_bounded() {
    let mut bytes = vec![b' '; MAX_DOCUMENT_BYTES + 1];
    assert!(matches!(
        read_lenient::<Machine>(&bytes),
        Err(ReadError::TooLarge)
    ));
    bytes.truncate(MAX_DOCUMENT_BYTES);
    bytes[..2].copy_from_slice(b"{}");
    assert!(read_lenient::<Machine>(&bytes).is_ok());
}

#[test]
fn a_long_name_is_shortened_in_the_answer() {
    let name = "ä".repeat(100_000);
    let text = refused(&format!("{{\"{name}\":1}}"));
    assert!(text.len() < 300, "{}", text.len());
}

mod properties {
    use proptest::prelude::*;

    use super::*;
    use crate::config::VmConfig;

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => prop::sample::select(vec![
                "payload", "kernel", "cpus", "boot_vcpus", "affinity", "vcpu", "host_cpus",
                "memory", "size", "zones", "id", "net", "fds", "mac", "queue_size", "disks",
                "path", "serial", "mode", "numa", "distances", "sched", "policy", "fs",
            ])
            .prop_map(str::to_owned),
            1 => ".{0,8}",
        ]
    }

    pub(super) fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            "(Off|Tty|fifo|hlt|.{0,6})".prop_map(Into::into),
        ];
        leaf.prop_recursive(5, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::vec((key(), inner), 0..8)
                    .prop_map(|entries| serde_json::Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_strict::<VmConfig>(&bytes);
        }

        #[test]
        fn any_json_is_read_or_refused(value in any_json()) {
            let text = value.to_string();
            let strict = read_strict::<VmConfig>(text.as_bytes());
            let lenient = read_lenient::<VmConfig>(text.as_bytes());
            // Strict is lenient that takes unknown fields amiss.
            match (strict, lenient) {
                (Ok(strict), Ok(lenient)) => {
                    prop_assert_eq!(strict, lenient.value);
                    prop_assert!(lenient.ignored.is_empty());
                }
                (Err(_), Ok(lenient)) => prop_assert!(!lenient.ignored.is_empty()),
                (Err(_), Err(_)) => {}
                (Ok(_), Err(error)) => prop_assert!(false, "only strict takes it: {error}"),
            }
        }
    }
}
