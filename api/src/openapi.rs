//! The OpenAPI document, made from the types and the table of routes.
//!
//! Nothing in it is written by hand: names, defaults and descriptions are
//! those of the types in [`config`](crate::config), [`request`](crate::request)
//! and [`response`](crate::response); paths are those of
//! [`ROUTES`]. `resources/openapi.json` is a copy, and a
//! test compares the two.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::error::ErrorChain;
use crate::json::to_ascii;
use crate::router::{Input, Method, Output, ROUTES, Route};

/// The document as it is served.
pub(crate) fn bytes() -> &'static [u8] {
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| to_ascii(&document()).unwrap_or_default());
    &BYTES
}

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    settings
        .transforms
        .push(Box::new(RecursiveTransform(truth)));
    let mut generator = SchemaGenerator::new(settings);
    let mut paths = Map::new();
    for route in ROUTES {
        let method = match route.method {
            Method::Get => "get",
            Method::Put => "put",
        };
        paths.insert(
            route.path.to_owned(),
            json!({ method: operation(route, &mut generator) }),
        );
    }
    let chain = generator.subschema_for::<ErrorChain>();
    let refused = json!({
        "description": "Refused: the reasons, the attempt first and the root cause last.",
        "content": content("application/json", &chain),
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "godwit",
            "description": "The REST interface of the godwit hypervisor, on a Unix socket.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost" }],
        "paths": paths,
        "components": {
            "responses": { "Refused": refused },
            "schemas": generator.take_definitions(true),
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "operationId": route.name(),
        "summary": route.summary,
        "responses": responses(route, generator),
    });
    if let Input::Json { schema, .. } = route.input {
        operation["requestBody"] = json!({
            "required": true,
            "content": content("application/json", &schema(generator)),
        });
    }
    operation
}

fn responses(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let done = json!({ "description": "Done." });
    let mut json = |schema: fn(&mut SchemaGenerator) -> Schema| {
        json!({
            "description": "Done; the answer.",
            "content": content("application/json", &schema(generator)),
        })
    };
    let mut responses = match route.output {
        Output::NoContent => json!({ "204": done }),
        Output::Empty => json!({ "200": done }),
        Output::Json(schema) => json!({ "200": json(schema) }),
        Output::NoContentOrJson(schema) => json!({ "200": json(schema), "204": done }),
        Output::Document => {
            json!({ "200": json(|_| schemars::json_schema!({ "type": "object" })) })
        }
        Output::Metrics => json!({ "200": {
            "description": "Figures.",
            "content": content("text/plain", &schemars::json_schema!({ "type": "string" })),
        }}),
    };
    let conflict = matches!(route.input, Input::Json { .. }).then_some("409");
    for status in ["400", "404", "500", "503"].into_iter().chain(conflict) {
        responses[status] = json!({ "$ref": "#/components/responses/Refused" });
    }
    responses
}

/// Adds what holds for every type as [`json`](crate::json) reads it: integers
/// have a range, and a field that may be absent may be `null`.
fn truth(schema: &mut Schema) {
    let bounds = match schema.get("format").and_then(Value::as_str) {
        Some("uint8") => Some((0, u8::MAX.into())),
        Some("uint16") => Some((0, u16::MAX.into())),
        Some("uint32") => Some((0, u32::MAX.into())),
        Some("uint64") => Some((0, u64::MAX)),
        Some("int32") => Some((i32::MIN.into(), i32::MAX.unsigned_abs().into())),
        Some("int64") => Some((i64::MIN, i64::MAX.unsigned_abs())),
        _ => None,
    };
    if let (Some((low, high)), Some(object)) = (bounds, schema.as_object_mut()) {
        object.entry("minimum").or_insert(low.into());
        object.entry("maximum").or_insert(high.into());
    }
    let required: Vec<Value> = match schema.get("required") {
        Some(Value::Array(names)) => names.clone(),
        _ => Vec::new(),
    };
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, property) in properties {
            if !required.iter().any(|required| required == name) {
                make_nullable(property);
            }
        }
    }
}

fn make_nullable(property: &mut Value) {
    let Value::Object(property) = property else {
        // `true`: anything, so null as well.
        return;
    };
    match property.get_mut("type") {
        Some(Value::String(one)) => {
            let types = json!([one, "null"]);
            property.insert("type".to_owned(), types);
        }
        _ => {
            if let Some(reference) = property.remove("$ref") {
                let either = json!([{ "$ref": reference }, { "type": "null" }]);
                property.insert("anyOf".to_owned(), either);
            }
        }
    }
}

fn content(kind: &str, schema: &Schema) -> Value {
    json!({ kind: { "schema": schema } })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/openapi.json");

    #[test]
    fn the_copy_in_resources_is_the_document() {
        let document = document();
        if std::env::var_os("GODWIT_WRITE_OPENAPI").is_some() {
            let text = serde_json::to_string_pretty(&document).unwrap();
            std::fs::write(COMMITTED, text + "\n").unwrap();
        }
        let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
        let committed: Value = serde_json::from_str(&committed).unwrap_or_default();
        assert!(
            committed == document,
            "resources/openapi.json is out of date; write it anew with\n    \
             GODWIT_WRITE_OPENAPI=1 cargo test -p godwit-api openapi"
        );
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, root: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(to)) = map.get("$ref") {
                        let to = to.strip_prefix('#').unwrap();
                        assert!(root.pointer(to).is_some(), "{to} is not there");
                    }
                    map.values().for_each(|value| walk(value, root));
                }
                Value::Array(values) => values.iter().for_each(|value| walk(value, root)),
                _ => (),
            }
        }
        let document = document();
        walk(&document, &document);
    }

    #[test]
    fn defaults_and_descriptions_of_the_config_are_there() {
        let document = document();
        let net = &document["components"]["schemas"]["NetConfig"]["properties"]["queue_size"];
        assert_eq!(net["default"], 256);
        assert!(
            net["description"]
                .as_str()
                .unwrap()
                .contains("power of two")
        );
        let memory = &document["components"]["schemas"]["MemoryConfig"];
        assert_eq!(memory["properties"]["shared"]["default"], true);
    }
}
