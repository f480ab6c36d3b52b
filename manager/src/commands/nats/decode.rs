//! `nats decode`: a message's body as readable JSON, for `--translate` of the nats CLI.
//!
//! Reads neither settings nor database. It is for reading only: a signature covers the bytes as they were sent, not this
//! text.

use anyhow::{Context as _, Result, bail};
use kubenova_schema::{
    message,
    v1::{UsageChunk, UsageManifest, UsageRecords},
    window::Window,
};
use serde_json::{Value, json};
use std::io::{self, Read as _, Write as _};

/// The broker's `max_payload`: no body is larger.
const BODY_BYTES_MAX: u64 = 1024 * 1024;

/// Fields that hold JSON in a string, so that no number or key order of it changes on the way.
const JSON_IN_TEXT: [&str; 2] = ["document", "detail"];

/// Arguments of `nats decode`.
#[derive(Debug, clap::Args)]
pub struct Decode;

impl Decode {
    pub(in crate::commands) fn run() -> Result<()> {
        let mut body = Vec::new();
        io::stdin().take(BODY_BYTES_MAX).read_to_end(&mut body).context("could not read the body on standard input")?;
        let text = format!("{:#}\n", readable(&body)?);
        io::stdout().write_all(text.as_bytes()).context("could not print the message")
    }
}

fn readable(body: &[u8]) -> Result<Value> {
    if let Ok(mut value) = serde_json::from_slice(body) {
        expand(&mut value);
        return Ok(value);
    }
    if let Some(value) = usage(body) {
        return value;
    }
    bail!("the body of {} bytes is neither JSON nor a chunk of a usage window: read it without --translate", body.len())
}

/// Replaces JSON in text by what it says.
fn expand(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let held = field.as_str().filter(|_| JSON_IN_TEXT.contains(&name.as_str()));
                if let Some(held) = held.and_then(|text| serde_json::from_str(text).ok()) {
                    *field = held;
                } else {
                    expand(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(expand),
        _ => {}
    }
}

/// A chunk of a usage window; none when the bytes are none, because many bytes are a protobuf message of some sort.
fn usage(body: &[u8]) -> Option<Result<Value>> {
    let chunk: UsageChunk = message::from_binary(body).ok()?;
    let manifest: UsageManifest = message::from_binary(&chunk.manifest).ok()?;
    Window::parse(&manifest.window)?;
    Some(show_chunk(&chunk, &manifest))
}

fn show_chunk(chunk: &UsageChunk, manifest: &UsageManifest) -> Result<Value> {
    let mut shown = json!({
        "chunk": { "index": chunk.index, "count": chunk.count, "bytes": chunk.part.len() },
        "manifest": to_value(manifest)?,
        "manifestSignature": chunk.manifest_signature,
    });
    // The part of a larger window begins and ends within a record.
    if chunk.count == 1 {
        let records: UsageRecords = message::from_binary(&chunk.part)?;
        shown["records"] = to_value(&records)?["records"].take();
    }
    Ok(shown)
}

fn to_value<M: message::Named>(message: &M) -> Result<Value> {
    serde_json::from_slice(&message::to_json(message)).context("could not read a message's own JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_schema::v1::{Command, Heartbeat, ObjectStatus, StatusReport, UsageRecord};
    use prost::Message as _;

    fn chunk(count: u32, part: Vec<u8>) -> Vec<u8> {
        let manifest = UsageManifest { window: "w1732698000-3600".into(), record_count: 1, ..UsageManifest::default() };
        let signature = "key:signature".to_owned();
        let manifest = manifest.encode_to_vec();
        UsageChunk { manifest, manifest_signature: signature, index: 0, count, part }.encode_to_vec()
    }

    #[test]
    fn json_in_text_is_shown_as_json_wherever_it_stands() {
        let command = Command { document: r#"{"kind":"Application"}"#.into(), ..Command::default() };
        let shown = readable(&message::to_json(&command)).unwrap();
        assert_eq!(shown["document"]["kind"], "Application");
        let objects = vec![ObjectStatus { detail: r#"{"phase":"running"}"#.into(), ..ObjectStatus::default() }];
        let shown = readable(&message::to_json(&StatusReport { objects, ..StatusReport::default() })).unwrap();
        assert_eq!(shown["objects"][0]["detail"]["phase"], "running");
        let broken = Command { document: "{".into(), ..Command::default() };
        assert_eq!(
            readable(&message::to_json(&broken)).unwrap()["document"],
            "{",
            "what cannot be read stays as it is"
        );
    }

    #[test]
    fn a_usage_window_is_shown_with_its_records_when_it_is_whole() {
        let meters = [("podCountMs".to_owned(), "170141183460469231731687303715884105727".to_owned())].into();
        let record = UsageRecord { tenant_id: "0198".into(), tenant_name: "acme".into(), meters };
        let part = UsageRecords { records: vec![record] }.encode_to_vec();
        let shown = readable(&chunk(1, part.clone())).unwrap();
        assert_eq!(shown["manifest"]["window"], "w1732698000-3600");
        assert_eq!(shown["records"][0]["tenantName"], "acme");
        assert_eq!(shown["records"][0]["meters"]["podCountMs"], "170141183460469231731687303715884105727");
        let first_of_two = readable(&chunk(2, part[..3].to_vec())).unwrap();
        assert_eq!(first_of_two["chunk"], json!({ "index": 0, "count": 2, "bytes": 3 }));
        assert!(first_of_two.get("records").is_none(), "{first_of_two}");
    }

    #[test]
    fn other_bytes_are_refused_with_what_to_do() {
        for body in [&b""[..], b"hello", &[0x0a, 0x00], &[0xff; 40]] {
            let error = readable(body).unwrap_err().to_string();
            assert!(error.contains("without --translate"), "{error}");
        }
    }

    #[test]
    fn the_heartbeat_in_the_document_is_one() {
        let document = include_str!("../../../../docs/operations/nats.md");
        let (_, example) = document.split_once("```json\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let heartbeat: Heartbeat = message::from_json(example.as_bytes()).unwrap();
        let example: Value = serde_json::from_str(example).unwrap();
        assert_eq!(to_value(&heartbeat).unwrap(), example, "a field of the example is unknown or a default");
    }
}
