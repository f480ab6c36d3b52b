//! Messages to and from bytes: canonical protobuf JSON, derived from the descriptor set.
//!
//! Verification happens before decoding, on the bytes as they arrived. Duplicate keys are refused at any depth, because
//! two readers could see two different commands in one signed body; unknown fields are ignored.

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use std::{fmt, sync::LazyLock};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin")).as_ref())
        .expect("the build script wrote this descriptor set")
});

/// A body that is not the expected message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Not JSON, or a key occurs twice.
    #[error("the body is not JSON without duplicate keys")]
    Json(#[source] serde_json::Error),
    /// JSON of another shape.
    #[error("the body is not a {name}")]
    Shape {
        /// The message that was expected.
        name: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Protobuf bytes of another shape.
    #[error("the body is not a {name}")]
    Binary {
        /// The message that was expected.
        name: &'static str,
        /// What is wrong with it.
        #[source]
        source: prost::DecodeError,
    },
}

/// A message with a name in the descriptor set.
pub trait Named: prost::Message + Default {
    /// Name without package.
    const NAME: &'static str;
}

macro_rules! named {
    ($($name:ident),*) => { $(impl Named for crate::v1::$name { const NAME: &'static str = stringify!($name); })* };
}
named!(
    Command,
    DeletionStatement,
    Outcome,
    ReceiptList,
    StatusReport,
    Heartbeat,
    Hello,
    HelloAnswer,
    HelloWanted,
    RenewalWanted,
    ListingPart,
    ListingAnswer,
    RecordsPart,
    UsageManifest,
    UsageRecords,
    UsageChunk
);

fn descriptor(name: &'static str) -> MessageDescriptor {
    POOL.get_message_by_name(&format!("kubenova.v1.{name}")).expect("every Named message stands in the .proto files")
}

/// Canonical JSON: camelCase names, 64-bit integers as strings, defaults left out.
#[must_use]
pub fn to_json<M: Named>(message: &M) -> Vec<u8> {
    let mut dynamic = DynamicMessage::new(descriptor(M::NAME));
    dynamic.transcode_from(message).expect("a generated type fits its own descriptor");
    serde_json::to_vec(&dynamic).expect("protobuf JSON of these messages cannot fail: string keys only")
}

/// Reads canonical JSON.
///
/// # Errors
/// When it is not JSON, a key occurs twice, or a field has another type.
pub fn from_json<M: Named>(bytes: &[u8]) -> Result<M, MessageError> {
    refuse_duplicate_keys(bytes).map_err(MessageError::Json)?;
    let shape = |source| MessageError::Shape { name: M::NAME, source };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let options = prost_reflect::DeserializeOptions::new().deny_unknown_fields(false);
    let dynamic =
        DynamicMessage::deserialize_with_options(descriptor(M::NAME), &mut reader, &options).map_err(shape)?;
    reader.end().map_err(shape)?;
    dynamic.transcode_to().map_err(|source| MessageError::Binary { name: M::NAME, source })
}

/// Reads binary protobuf.
///
/// # Errors
/// When the bytes are not that message.
pub fn from_binary<M: Named>(bytes: &[u8]) -> Result<M, MessageError> {
    M::decode(bytes).map_err(|source| MessageError::Binary { name: M::NAME, source })
}

/// Checks that no JSON object in the bytes has the same key twice.
///
/// # Errors
/// On a duplicate key, or when the bytes are not one JSON value.
pub fn refuse_duplicate_keys(bytes: &[u8]) -> Result<(), serde_json::Error> {
    serde_json::from_slice::<UniqueKeys>(bytes).map(|_| ())
}

struct UniqueKeys;

impl<'de> serde::Deserialize<'de> for UniqueKeys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueKeysVisitor)
    }
}

struct UniqueKeysVisitor;

impl<'de> serde::de::Visitor<'de> for UniqueKeysVisitor {
    type Value = UniqueKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without duplicate keys")
    }
    fn visit_bool<E>(self, _: bool) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }
    fn visit_i64<E>(self, _: i64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }
    fn visit_u64<E>(self, _: u64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }
    fn visit_f64<E>(self, _: f64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }
    fn visit_str<E>(self, _: &str) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }
    fn visit_unit<E>(self) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<UniqueKeys, A::Error> {
        while seq.next_element::<UniqueKeys>()?.is_some() {}
        Ok(UniqueKeys)
    }
    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<UniqueKeys, A::Error> {
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if seen.contains(&key) {
                return Err(serde::de::Error::custom(format!("key \"{key}\" stands twice in one object")));
            }
            map.next_value::<UniqueKeys>()?;
            seen.insert(key);
        }
        Ok(UniqueKeys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Command;

    fn command() -> Command {
        Command {
            id: "0198".into(),
            epoch: 1,
            revision: u64::MAX,
            kind: "apply-tenant".into(),
            document: r#"{"a":1.0}"#.into(),
            ..Command::default()
        }
    }

    #[test]
    fn a_command_reads_back_with_its_document_to_the_byte() {
        let bytes = to_json(&command());
        assert_eq!(from_json::<Command>(&bytes).unwrap(), command());
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(r#""revision":"18446744073709551615""#), "{text}");
    }

    #[test]
    fn unknown_fields_are_ignored_and_duplicate_keys_refused() {
        assert_eq!(from_json::<Command>(br#"{"id":"x","colour":"red"}"#).unwrap().id, "x");
        assert!(matches!(from_json::<Command>(br#"{"id":"x","id":"y"}"#), Err(MessageError::Json(_))));
        assert!(matches!(from_json::<Command>(br#"{"x":[{"a":1,"a":2}]}"#), Err(MessageError::Json(_))));
        assert!(from_json::<Command>(br#"{"id":"x"} trailing"#).is_err());
    }
}
