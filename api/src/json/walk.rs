//! A serde deserializer over [`Value`] that knows where it is.
//!
//! serde hands a struct's field names to the deserializer. That is all it
//! takes to tell an unknown field, and the nearest known one, in one place
//! for all types.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value, map};

use super::FieldProblem;
use super::words::{kind, nearest, quoted, range, shortened, shown};

/// The value or why there is none, and every field that the type lacks.
pub(super) struct Walked<T> {
    pub value: Result<T, FieldProblem>,
    pub unknown: Vec<FieldProblem>,
}

pub(super) fn walk<T: DeserializeOwned>(document: Value) -> Walked<T> {
    let unknown = RefCell::new(Vec::new());
    let root = Node {
        value: document,
        place: &Place::Root,
        unknown: &unknown,
    };
    let value = T::deserialize(root).map_err(|error| FieldProblem {
        path: error.path.unwrap_or_default(),
        reason: error.reason,
    });
    Walked {
        value,
        unknown: unknown.into_inner(),
    }
}

/// A place in the document; a list on the stack, so that a path is only
/// written out when there is something to say about it.
enum Place<'a> {
    Root,
    Field(&'a Place<'a>, &'a str),
    Element(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Root => Ok(()),
            Place::Field(Place::Root, name) => f.write_str(name),
            Place::Field(parent, name) => write!(f, "{parent}.{name}"),
            Place::Element(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// An error on its way up: the innermost node gives it its path.
#[derive(Debug)]
struct WalkError {
    path: Option<String>,
    /// A field below the node that the error is about, when it is missing.
    missing: Option<&'static str>,
    reason: String,
}

impl WalkError {
    fn at(mut self, place: &Place<'_>) -> Self {
        if self.path.is_none() {
            self.path = Some(match self.missing {
                Some(name) => Place::Field(place, name).to_string(),
                None => place.to_string(),
            });
        }
        self
    }
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for WalkError {}

impl de::Error for WalkError {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self {
            path: None,
            missing: None,
            reason: reason.to_string(),
        }
    }

    fn invalid_type(got: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!(
            "expected {}, got {}",
            kind(&expected.to_string()),
            shown(got)
        ))
    }

    fn invalid_value(got: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let name = expected.to_string();
        match range(&name) {
            Some((low, high)) => Self::custom(format_args!(
                "{} is out of range: expected an integer from {low} to {high}",
                shown(got)
            )),
            None => Self::custom(format_args!("expected {name}, got {}", shown(got))),
        }
    }

    fn unknown_variant(got: &str, known: &'static [&'static str]) -> Self {
        let hint = nearest(got, known)
            .map(|name| format!("; did you mean {name:?}?"))
            .unwrap_or_default();
        Self::custom(format_args!(
            "expected one of {}, got {got:?}{hint}",
            quoted(known)
        ))
    }

    fn missing_field(name: &'static str) -> Self {
        Self {
            path: None,
            missing: Some(name),
            reason: "missing, and it has no default".to_owned(),
        }
    }
}

/// One value of the document.
struct Node<'a> {
    value: Value,
    place: &'a Place<'a>,
    unknown: &'a RefCell<Vec<FieldProblem>>,
}

impl Node<'_> {
    fn unexpected<V: de::Expected>(&self, expected: &V) -> WalkError {
        let got = match &self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(value) => match (value.as_u64(), value.as_i64(), value.as_f64()) {
                (Some(value), _, _) => Unexpected::Unsigned(value),
                (_, Some(value), _) => Unexpected::Signed(value),
                (_, _, Some(value)) => Unexpected::Float(value),
                _ => Unexpected::Other("a number"),
            },
            Value::String(value) => Unexpected::Str(value),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        };
        <WalkError as de::Error>::invalid_type(got, expected).at(self.place)
    }

    fn visit_any<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        known: Option<&'static [&'static str]>,
    ) -> Result<V::Value, WalkError> {
        let Node {
            value,
            place,
            unknown,
        } = self;
        match value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => {
                if let Some(value) = number.as_u64() {
                    visitor.visit_u64(value)
                } else if let Some(value) = number.as_i64() {
                    visitor.visit_i64(value)
                } else {
                    visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
                }
            }
            Value::String(value) => visitor.visit_string(value),
            Value::Array(values) => visitor.visit_seq(Elements {
                values: values.into_iter().enumerate(),
                place,
                unknown,
            }),
            Value::Object(mut entries) => {
                if let Some(known) = known {
                    drop_unknown(&mut entries, known, place, unknown);
                }
                visitor.visit_map(Fields {
                    entries: entries.into_iter(),
                    current: None,
                    place,
                    unknown,
                })
            }
        }
        .map_err(|error: WalkError| error.at(place))
    }
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = WalkError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        self.visit_any(visitor, None)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, WalkError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, WalkError> {
        // serde would also take an array for a struct, field by field.
        if !self.value.is_object() {
            return Err(self.unexpected(&"an object"));
        }
        self.visit_any(visitor, Some(fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, WalkError> {
        match self.value {
            Value::String(name) => visitor
                .visit_enum(UnitVariant(name))
                .map_err(|error| error.at(self.place)),
            _ => {
                let expected = format!("one of {}", quoted(variants));
                Err(self.unexpected(&expected.as_str()))
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string
        bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier
        ignored_any
    }
}

struct Elements<'a> {
    values: std::iter::Enumerate<std::vec::IntoIter<Value>>,
    place: &'a Place<'a>,
    unknown: &'a RefCell<Vec<FieldProblem>>,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = WalkError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, WalkError> {
        let Some((index, value)) = self.values.next() else {
            return Ok(None);
        };
        let place = Place::Element(self.place, index);
        let node = Node {
            value,
            place: &place,
            unknown: self.unknown,
        };
        seed.deserialize(node)
            .map(Some)
            .map_err(|error| error.at(&place))
    }
}

struct Fields<'a> {
    entries: map::IntoIter,
    current: Option<(String, Value)>,
    place: &'a Place<'a>,
    unknown: &'a RefCell<Vec<FieldProblem>>,
}

/// Leaves what a struct knows and what is not `null`.
///
/// All at once, before any value is read: a wrong type then does not hide an
/// unknown name beside it.
fn drop_unknown(
    entries: &mut Map<String, Value>,
    known: &'static [&'static str],
    place: &Place<'_>,
    unknown: &RefCell<Vec<FieldProblem>>,
) {
    entries.retain(|name, value| {
        let is_known = known.contains(&name.as_str());
        if !is_known {
            unknown.borrow_mut().push(unknown_field(place, name, known));
        }
        is_known && !value.is_null()
    });
}

fn unknown_field(place: &Place<'_>, name: &str, known: &[&'static str]) -> FieldProblem {
    let hint = match nearest(name, known) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("the fields here are {}", quoted(known)),
    };
    FieldProblem {
        path: Place::Field(place, &shortened(name)).to_string(),
        reason: format!("unknown field; {hint}"),
    }
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = WalkError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, WalkError> {
        let Some((name, value)) = self.entries.next() else {
            return Ok(None);
        };
        let key: StringDeserializer<WalkError> = name.clone().into_deserializer();
        self.current = Some((name, value));
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, WalkError> {
        let Some((name, value)) = self.current.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let place = Place::Field(self.place, &name);
        let node = Node {
            value,
            place: &place,
            unknown: self.unknown,
        };
        seed.deserialize(node).map_err(|error| error.at(&place))
    }
}

/// A variant without data, given by its name.
struct UnitVariant(String);

impl<'de> EnumAccess<'de> for UnitVariant {
    type Error = WalkError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), WalkError> {
        let name: StringDeserializer<WalkError> = self.0.clone().into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for UnitVariant {
    type Error = WalkError;

    fn unit_variant(self) -> Result<(), WalkError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        _seed: T,
    ) -> Result<T::Value, WalkError> {
        Err(self.with_data())
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _len: usize,
        _visitor: V,
    ) -> Result<V::Value, WalkError> {
        Err(self.with_data())
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, WalkError> {
        Err(self.with_data())
    }
}

impl UnitVariant {
    fn with_data(&self) -> WalkError {
        de::Error::custom(format_args!("{:?} carries data that is not here", self.0))
    }
}
