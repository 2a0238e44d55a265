//! Arguments, and what godwit prints of itself.

use serde_json::Value;

use super::{check, document};
use crate::support::scratch::Scratch;

#[test]
fn arguments_that_do_not_go_together() {
    check(&["--fix", "--undo", "x"]).assert_refused(2, &["--fix", "--undo"]);
    check(&["--record", "x"]).assert_refused(2, &["--fix"]);
    check(&["--config", "x", "--cpus", "1"]).assert_refused(2, &["--cpus"]);
    check(&["--cpus", "3-1"]).assert_refused(2, &["3-1", "2-5,8"]);
    check(&["--cpus", ""]).assert_refused(2, &["2-5,8"]);
    check(&["--cpus", "0,7000"]).assert_refused(2, &["CPU 7000 is not online"]);
    check(&["--interval=-1"]).assert_refused(2, &["--interval"]);
    check(&["--interval", "600001"]).assert_refused(2, &["600000"]);
}

#[test]
fn configs_that_are_none() {
    check(&["--config", "/nonexistent"]).assert_refused(2, &["/nonexistent", "No such file"]);
    let scratch = Scratch::new();
    let path = scratch.write("vm.json", r#"{"cpu": {}}"#);
    check(&["--config", super::text(&path)]).assert_refused(2, &["cpu", "cpus"]);
}

#[test]
fn a_root_that_is_none() {
    let scratch = Scratch::new();
    let root = super::text(scratch.path());
    check(&["--root", root]).assert_refused(2, &[root, "proc and sys"]);
}

#[test]
fn records_that_are_none() {
    check(&["--undo", "/nonexistent"]).assert_refused(1, &["cannot read the record /nonexistent"]);
    let scratch = Scratch::new();
    let path = scratch.write("record", "[]");
    check(&["--undo", super::text(&path)]).assert_refused(1, &["no record of godwit check --fix"]);
}

#[test]
fn the_readme_says_what_the_page_says() {
    let ended = check(&["--page"]);
    assert_eq!(ended.code, Some(0));
    let readme = include_str!("../../README.md");
    assert!(readme.contains(ended.stdout.trim()));
}

#[test]
fn the_schema_describes_every_field() {
    let schema = document(&check(&["--schema"]));
    fn fields(schema: &Value, without: &mut Vec<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            for (name, field) in properties {
                if field["description"].is_null() {
                    without.push(name.clone());
                }
            }
        }
        let definitions = schema["$defs"].as_object().into_iter().flatten();
        for (_, definition) in definitions {
            fields(definition, without);
        }
    }
    let mut without = Vec::new();
    fields(&schema, &mut without);
    assert!(without.is_empty(), "without a description: {without:?}");
    assert!(schema["properties"]["items"].is_object());
}
