//! A body from words: JSON, and `key=value` laid over it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use godwit_api::json::MAX_DOCUMENT_BYTES;
use godwit_api::router::Route;
use serde_json::{Map, Number, Value};

use super::Failure;
use super::schema::{Schema, Shape};
use super::verb::folder_url;

/// The most entries that an index of a list can ask for.
const MAX_ENTRIES: usize = 4096;

/// What a word means that is neither JSON nor `key=value`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bare {
    /// Nothing.
    None,
    /// A file of JSON.
    File,
    /// The value of this field.
    Text(&'static str),
    /// A folder, for this field.
    Folder(&'static str),
}

/// The body that `words` make for `route`.
pub(super) fn from_words(route: &Route, words: &[String], bare: Bare) -> Result<Vec<u8>, Failure> {
    let schema = Schema::new();
    let body = Body {
        schema: &schema,
        shape: schema.body(route),
    };
    let mut value: Option<Value> = None;
    let mut document: Option<Vec<u8>> = None;
    for word in words {
        if let Some(bytes) = read(word, bare)? {
            if document.is_some() || value.is_some() {
                return Err(Failure::usage(format!(
                    "{word:?}: JSON comes once, and before words KEY=VALUE"
                )));
            }
            document = Some(bytes);
            continue;
        }
        let mut under = match (value.take(), &document) {
            (Some(value), _) => value,
            (None, Some(bytes)) => serde_json::from_slice(bytes).map_err(|error| {
                Failure::usage(format!(
                    "words cannot be laid over what is no JSON: {error}"
                ))
            })?,
            (None, None) => Value::Object(Map::new()),
        };
        body.word(&mut under, word, bare)?;
        value = Some(under);
    }
    // A document that no word touches is sent as it was written.
    Ok(match (value, document) {
        (Some(value), _) => value.to_string().into_bytes(),
        (None, Some(bytes)) => bytes,
        (None, None) => b"{}".to_vec(),
    })
}

/// The JSON that a word holds or names, if it does.
fn read(word: &str, bare: Bare) -> Result<Option<Vec<u8>>, Failure> {
    if word == "-" {
        return load(Path::new("standard input"), io::stdin().lock()).map(Some);
    }
    if let Some(path) = word.strip_prefix('@') {
        return open(Path::new(path)).map(Some);
    }
    if word.trim_start().starts_with('{') {
        return Ok(Some(word.as_bytes().to_vec()));
    }
    match bare {
        Bare::File if !word.contains('=') => open(Path::new(word)).map(Some),
        _ => Ok(None),
    }
}

fn open(path: &Path) -> Result<Vec<u8>, Failure> {
    let file = File::open(path).map_err(|source| Failure::Read {
        path: path.to_owned(),
        source,
    })?;
    load(path, file)
}

fn load(path: &Path, from: impl Read) -> Result<Vec<u8>, Failure> {
    // One byte more than is allowed, so that the check sees it.
    const LIMIT: u64 = MAX_DOCUMENT_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    match from.take(LIMIT).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(source) => Err(Failure::Read {
            path: PathBuf::from(path),
            source,
        }),
    }
}

struct Body<'a> {
    schema: &'a Schema,
    shape: Shape<'a>,
}

impl Body<'_> {
    fn word(&self, under: &mut Value, word: &str, bare: Bare) -> Result<(), Failure> {
        let known = word
            .split_once('=')
            .is_some_and(|(key, _)| self.shape_at(key).is_some());
        match bare {
            Bare::Text(field) if !known && !looks_like_a_key(word) => {
                return self.set(under, field, word);
            }
            Bare::Folder(field) if !known && !looks_like_a_key(word) => {
                return self.set(under, field, &folder_url(word)?);
            }
            _ => (),
        }
        for part in self.split(word) {
            let Some((key, text)) = part.split_once('=') else {
                return Err(Failure::usage(format!(
                    "{part:?} is neither JSON nor KEY=VALUE"
                )));
            };
            self.set(under, key, text)?;
        }
        Ok(())
    }

    /// `a=1,b=2` is two words, as the peer's client takes them. A comma ends a
    /// value only before a key that exists: values may have commas of their own.
    fn split<'w>(&self, word: &'w str) -> Vec<&'w str> {
        let mut parts = Vec::new();
        let mut start = 0;
        for (at, _) in word.match_indices(',') {
            let rest = word.get(at + 1..).unwrap_or_default();
            let key = rest.split_once('=').map(|(key, _)| key);
            if key.is_some_and(|key| self.shape_at(key).is_some()) {
                parts.extend(word.get(start..at));
                start = at + 1;
            }
        }
        parts.extend(word.get(start..));
        parts
    }

    fn shape_at(&self, key: &str) -> Option<Shape<'_>> {
        key.split('.')
            .try_fold(self.shape, |shape, step| match shape {
                Shape::Object(fields) => Some(self.schema.shape(fields.get(step)?)),
                Shape::List(items) => step.parse::<usize>().ok().map(|_| self.schema.shape(items)),
                Shape::Any => Some(Shape::Any),
                Shape::Boolean | Shape::Integer | Shape::Number | Shape::Text => None,
            })
    }

    fn set(&self, under: &mut Value, key: &str, text: &str) -> Result<(), Failure> {
        let Some(shape) = self.shape_at(key) else {
            return Err(Failure::usage(self.unknown(key)));
        };
        let value = self
            .value(shape, text)
            .map_err(|reason| Failure::usage(format!("{key}={text}: {reason}")))?;
        let place = key.split('.').try_fold(under, entry);
        match place {
            Some(place) => {
                *place = value;
                Ok(())
            }
            None => Err(Failure::usage(format!(
                "{key}={text}: the JSON has no place for it"
            ))),
        }
    }

    /// Which step of `key` is wrong, and what there is instead.
    fn unknown(&self, key: &str) -> String {
        let mut shape = self.shape;
        for step in key.split('.') {
            let next = match shape {
                Shape::Object(fields) => match fields.get(step) {
                    Some(field) => self.schema.shape(field),
                    None => {
                        let mut names: Vec<_> = fields.keys().map(String::as_str).collect();
                        names.sort_unstable();
                        return format!("{key}: there is no {step:?} among {}", names.join(", "));
                    }
                },
                Shape::List(items) if step.parse::<usize>().is_ok() => self.schema.shape(items),
                Shape::List(_) => {
                    return format!("{key}: it is a list, so {step:?} must be an index from 0 on");
                }
                _ => return format!("{key}: what comes before {step:?} has no fields"),
            };
            shape = next;
        }
        format!("{key} is not known")
    }

    fn value(&self, shape: Shape<'_>, text: &str) -> Result<Value, String> {
        match shape {
            Shape::Boolean => match text {
                "true" | "on" | "yes" => Ok(Value::Bool(true)),
                "false" | "off" | "no" => Ok(Value::Bool(false)),
                _ => Err("it is true or false".to_owned()),
            },
            Shape::Integer => integer(text).map(Value::Number),
            Shape::Number => text
                .parse()
                .ok()
                .and_then(Number::from_f64)
                .map(Value::Number)
                .ok_or_else(|| "it is a number".to_owned()),
            Shape::Text => Ok(Value::String(text.to_owned())),
            Shape::List(_) if text.starts_with('[') => parsed(text),
            Shape::List(_) if text.is_empty() => Ok(Value::Array(Vec::new())),
            Shape::List(items) => {
                let shape = self.schema.shape(items);
                if let Shape::Object(_) = shape {
                    return Err(
                        "it is a list of objects: write JSON, or KEY.0.FIELD=VALUE".to_owned()
                    );
                }
                text.split(',').map(|one| self.value(shape, one)).collect()
            }
            Shape::Object(_) if text.starts_with('{') => parsed(text),
            Shape::Object(_) => Err("it is an object: write JSON, or KEY.FIELD=VALUE".to_owned()),
            Shape::Any => Ok(parsed(text).unwrap_or_else(|_| Value::String(text.to_owned()))),
        }
    }
}

/// The entry `step` of `under`, made where there is none.
fn entry<'v>(under: &'v mut Value, step: &str) -> Option<&'v mut Value> {
    let index = step.parse::<usize>().ok();
    if under.is_null() {
        *under = match index {
            Some(_) => Value::Array(Vec::new()),
            None => Value::Object(Map::new()),
        };
    }
    match (under, index) {
        (Value::Array(list), Some(at)) if at < MAX_ENTRIES => {
            if list.len() <= at {
                list.resize(at + 1, Value::Null);
            }
            list.get_mut(at)
        }
        (Value::Object(fields), None) => Some(fields.entry(step).or_insert(Value::Null)),
        _ => None,
    }
}

/// `tcp:host:1` and a path are no keys; `destination_ulr=x` was meant as one.
fn looks_like_a_key(word: &str) -> bool {
    word.split_once('=').is_some_and(|(key, _)| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        !key.is_empty() && key.chars().all(plain)
    })
}

fn parsed(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))
}

/// A whole number, with a size's suffix.
fn integer(text: &str) -> Result<Number, String> {
    let wrong = || "it is a whole number, and may end in K, M, G or T".to_owned();
    let (digits, shift) = match text.char_indices().last() {
        Some((at, suffix)) => match "KMGT".find(suffix.to_ascii_uppercase()) {
            Some(place) => (text.get(..at).unwrap_or_default(), 10 * (place + 1)),
            None => (text, 0),
        },
        None => return Err(wrong()),
    };
    if let Ok(number) = digits.parse::<i64>()
        && shift == 0
    {
        return Ok(number.into());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number
        .checked_mul(1 << shift)
        .map(Number::from)
        .ok_or_else(|| "it is larger than 64 bits hold".to_owned())
}

#[cfg(test)]
mod tests;
