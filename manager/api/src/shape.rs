//! Reads a JSON value as one Rust shape, and says in plain words with a JSON pointer what does not fit.
//!
//! Stricter than serde_json: a list is no object, so `["2", "3Gi", 7]` never becomes a quota. The texts here are what
//! callers read; Rust's type names stay out of them.

use kubenova_core::{
    pointer::Pointer,
    refusal::{Reason, Refusal},
};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor, value::StrDeserializer,
};
use serde_json::{Map, Value};
use std::fmt;

/// Reads a body as one shape.
///
/// # Errors
/// With [`Reason::BodyMalformed`] when it is not an object, else [`Reason::FieldInvalid`] and the field's pointer.
pub fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Refusal> {
    if !value.is_object() {
        let detail = format!("the body is {}, not an object", described(value));
        return Err(Refusal::new(Reason::BodyMalformed, detail));
    }
    T::deserialize(Shape(value))
        .map_err(|misfit| Refusal::at(Reason::FieldInvalid, misfit.pointer.to_string(), misfit.sentence()))
}

/// What does not fit, and where.
#[derive(Debug, Clone)]
struct Misfit {
    pointer: Pointer,
    message: String,
}

impl Misfit {
    fn within(mut self, segment: &str) -> Self {
        self.pointer = self.pointer.within(segment);
        self
    }

    fn sentence(&self) -> String {
        match self.pointer.last() {
            Some(name) => format!("{name}: {}", self.message),
            None => self.message.clone(),
        }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence())
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { pointer: Pointer::default(), message: message.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format!("it is {}, it must be {}", found_in_words(found), expected_in_words(expected)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::custom(format!("there is no such field; possible are {}", known.join(", "))).within(field)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom("it is missing").within(field)
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        Self::custom(format!("it is {variant:?}, possible are {}", known.join(", ")))
    }
}

fn found_in_words(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Signed(number) => number.to_string(),
        Unexpected::Float(number) => number.to_string(),
        Unexpected::Str(text) => format!("the text {text:?}"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "an object".to_owned(),
        Unexpected::Unit | Unexpected::Option => "null".to_owned(),
        other => other.to_string(),
    }
}

/// serde's and derive's words for what they expect, in ours.
fn expected_in_words(expected: &dyn Expected) -> String {
    let theirs = expected.to_string();
    match theirs.as_str() {
        "u8" => whole(0, u8::MAX),
        "u16" => whole(0, u16::MAX),
        "u32" => whole(0, u32::MAX),
        "u64" | "usize" => "a whole number from 0".to_owned(),
        "i32" => whole(i32::MIN, i32::MAX),
        "i64" => "a whole number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "an object".to_owned(),
        shape if shape.starts_with("struct ") => "an object".to_owned(),
        shape if shape.starts_with("enum ") => "a text".to_owned(),
        _ => theirs,
    }
}

fn whole(from: impl fmt::Display, to: impl fmt::Display) -> String {
    format!("a whole number from {from} to {to}")
}

/// A value in words: its kind, and what it is when that is short.
#[must_use]
pub fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Unexpected::Unsigned(number),
            (None, Some(number)) => Unexpected::Signed(number),
            (None, None) => Unexpected::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

#[derive(Clone, Copy)]
struct Shape<'de>(&'de Value);

impl<'de> Shape<'de> {
    fn object<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Object(fields) => visitor.visit_map(Fields::of(fields)),
            other => Err(de::Error::invalid_type(unexpected(other), &visitor)),
        }
    }

    fn list<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            other => Err(de::Error::invalid_type(unexpected(other), &visitor)),
        }
    }
}

impl<'de> Deserializer<'de> for Shape<'de> {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(_) => self.list(visitor),
            Value::Object(_) => self.object(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.object(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.object(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.list(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::String(text) => visitor.visit_enum(Variant(text)),
            other => Err(de::Error::invalid_type(unexpected(other), &visitor)),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct
        identifier ignored_any
    }
}

struct Fields<'de> {
    fields: serde_json::map::Iter<'de>,
    next: Option<(&'de str, &'de Value)>,
}

impl<'de> Fields<'de> {
    fn of(fields: &'de Map<String, Value>) -> Self {
        Self { fields: fields.iter(), next: None }
    }
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        let Some((name, value)) = self.fields.next() else { return Ok(None) };
        self.next = Some((name, value));
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let (name, value) = self.next.take().expect("serde asks for a value after its key only");
        seed.deserialize(Shape(value)).map_err(|misfit| misfit.within(name))
    }
}

struct Items<'de> {
    items: std::slice::Iter<'de, Value>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        let Some(value) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(Shape(value)).map(Some).map_err(|misfit| misfit.within(&index.to_string()))
    }
}

/// A variant without content, by its name: the bodies of this API have no others.
struct Variant<'de>(&'de str);

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Misfit;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Misfit> {
        let name = seed.deserialize(StrDeserializer::new(self.0))?;
        Ok((name, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Misfit;

    fn unit_variant(self) -> Result<(), Misfit> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Misfit> {
        Err(de::Error::custom("it is a text, it must be an object"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Misfit> {
        Err(de::Error::custom("it is a text, it must be a list"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Misfit> {
        Err(de::Error::custom("it is a text, it must be an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_api_types::{applications::ApplicationForm, tenants::TenantCreate};
    use serde_json::json;

    fn form(value: &Value) -> Refusal {
        read::<ApplicationForm>(value).unwrap_err()
    }

    #[test]
    fn lists_are_no_objects() {
        let refusal = read::<TenantCreate>(&json!({ "name": "a", "quota": ["2", "3Gi", 7] })).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some("/quota"));
        assert_eq!(refusal.detail, "quota: it is a list, it must be an object");
        let refusal = read::<ApplicationForm>(&json!(["shop", "nginx"])).unwrap_err();
        assert_eq!(refusal.reason, Reason::BodyMalformed);
    }

    #[test]
    fn what_does_not_fit_is_said_in_plain_words_with_its_pointer() {
        let with = |name: &str, value: Value| {
            let mut body = json!({ "name": "shop", "image": "nginx" });
            body[name] = value;
            form(&body)
        };
        for (refusal, pointer, detail) in [
            (
                with("replicas", json!("3")),
                "/replicas",
                "it is the text \"3\", it must be a whole number from 0 to 4294967295",
            ),
            (with("replicas", json!(-1)), "/replicas", "it is -1, it must be a whole number from 0 to 4294967295"),
            (with("port", json!(70_000)), "/port", "it is 70000, it must be a whole number from 0 to 65535"),
            (with("port", json!(1.5)), "/port", "it is 1.5, it must be a whole number from 0 to 65535"),
            (with("image", json!(null)), "/image", "it is null, it must be a text"),
            (with("command", json!("sh")), "/command", "it is the text \"sh\", it must be a list"),
            (with("command", json!(["sh", 7])), "/command/1", "it is 7, it must be a text"),
            (with("env", json!({ "A/B": 7 })), "/env/A~1B", "it is 7, it must be a text"),
            (with("env", json!([])), "/env", "it is a list, it must be an object"),
        ] {
            assert_eq!(refusal.reason, Reason::FieldInvalid);
            assert_eq!(refusal.field.as_deref(), Some(pointer));
            assert!(refusal.detail.ends_with(detail), "{}", refusal.detail);
        }
        let unknown = with("colour", json!(1));
        assert_eq!(unknown.field.as_deref(), Some("/colour"));
        assert!(unknown.detail.contains("no such field; possible are name, image"), "{}", unknown.detail);
        let missing = form(&json!({ "name": "shop" }));
        assert_eq!((missing.field.as_deref(), missing.detail.as_str()), (Some("/image"), "image: it is missing"));
    }

    #[test]
    fn what_fits_is_read() {
        let form: ApplicationForm =
            read(&json!({ "name": "shop", "image": "nginx", "replicas": 3, "env": { "A": "b" }, "cpu": null }))
                .unwrap();
        assert_eq!((form.replicas, form.cpu, form.env["A"].as_str()), (Some(3), None, "b"));
    }
}
