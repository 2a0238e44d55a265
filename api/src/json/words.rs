//! The words of an error: JSON's names for types, and the nearest known name.

use serde::de::Unexpected;

/// How similar two names must be, from 0 to 1, for one to be offered in place
/// of the other.
const NEAR: f64 = 0.75;

/// The JSON name of what a visitor expects.
pub(super) fn kind(expected: &str) -> String {
    match expected {
        name if range(name).is_some() => "an integer".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        name if name.starts_with("struct ") => "an object".to_owned(),
        name if name.starts_with("a sequence") => "an array".to_owned(),
        name if name.starts_with("a map") => "an object".to_owned(),
        "path string" => "a path as a string".to_owned(),
        name => name.to_owned(),
    }
}

/// The range of an integer type of Rust, by its name.
pub(super) fn range(name: &str) -> Option<(i64, u64)> {
    Some(match name {
        "u8" => (0, u8::MAX.into()),
        "u16" => (0, u16::MAX.into()),
        "u32" => (0, u32::MAX.into()),
        "u64" | "usize" => (0, u64::MAX),
        "i32" => (i32::MIN.into(), i32::MAX.unsigned_abs().into()),
        "i64" => (i64::MIN, i64::MAX.unsigned_abs()),
        _ => return None,
    })
}

pub(super) fn shown(got: Unexpected<'_>) -> String {
    match got {
        Unexpected::Bool(value) => format!("the boolean {value}"),
        Unexpected::Unsigned(value) => format!("the integer {value}"),
        Unexpected::Signed(value) => format!("the integer {value}"),
        Unexpected::Float(value) => format!("the number {value:?}"),
        Unexpected::Str(value) => format!("the string {:?}", shortened(value)),
        Unexpected::Unit => "null".to_owned(),
        Unexpected::Seq => "an array".to_owned(),
        Unexpected::Map => "an object".to_owned(),
        other => other.to_string(),
    }
}

/// At most 64 characters of what a client sent.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

pub(super) fn quoted(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

pub(super) fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    // A name as long as this is no slip of the finger, and similarity costs
    // its square.
    if name.len() > 64 {
        return None;
    }
    known
        .iter()
        .map(|candidate| {
            let likeness = strsim::normalized_damerau_levenshtein(name, candidate)
                .max(strsim::jaro_winkler(name, candidate) - 0.1);
            (likeness, *candidate)
        })
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
