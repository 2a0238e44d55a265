//! The types of a request's fields, as the interface's own document has them.

use godwit_api::openapi;
use godwit_api::router::Route;
use serde_json::{Map, Value};

/// The document that says what every request looks like.
#[derive(Debug)]
pub(super) struct Schema(Value);

/// What a value is in JSON.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape<'a> {
    Boolean,
    Integer,
    Number,
    Text,
    List(&'a Value),
    Object(&'a Map<String, Value>),
    /// Anything at all.
    Any,
}

impl Schema {
    pub(super) fn new() -> Self {
        Self(openapi::document())
    }

    /// What the body of `route` looks like.
    pub(super) fn body(&self, route: &Route) -> Shape<'_> {
        let body = self
            .0
            .get("paths")
            .and_then(|paths| paths.get(route.path)?.get("put")?.get("requestBody"))
            .and_then(|body| body.get("content")?.get("application/json")?.get("schema"));
        body.map_or(Shape::Any, |body| self.shape(body))
    }

    /// What values of `schema` look like; an option looks like its value.
    pub(super) fn shape<'a>(&'a self, schema: &'a Value) -> Shape<'a> {
        if let Some(Value::String(to)) = schema.get("$ref") {
            let to = self.0.pointer(to.trim_start_matches('#'));
            return to.map_or(Shape::Any, |to| self.shape(to));
        }
        for key in ["anyOf", "oneOf", "allOf"] {
            if let Some(Value::Array(several)) = schema.get(key) {
                let first = several.iter().find(|one| !names_type(one, "null"));
                return first.map_or(Shape::Any, |first| self.shape(first));
            }
        }
        for (name, shape) in [
            ("boolean", Shape::Boolean),
            ("integer", Shape::Integer),
            ("number", Shape::Number),
            ("string", Shape::Text),
        ] {
            if names_type(schema, name) {
                return shape;
            }
        }
        if names_type(schema, "array") {
            return Shape::List(schema.get("items").unwrap_or(&Value::Null));
        }
        match schema.get("properties") {
            Some(Value::Object(fields)) => Shape::Object(fields),
            _ => Shape::Any,
        }
    }
}

fn names_type(schema: &Value, name: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(one)) => one == name,
        Some(Value::Array(several)) => several.iter().any(|one| one == name),
        _ => false,
    }
}
