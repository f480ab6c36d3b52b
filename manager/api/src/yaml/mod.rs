//! Reads one YAML document as kubectl reads it, so that a manifest that was applied by hand means the same when it is
//! sent here: file modes in octal, `yes` and `no`, merge keys. What kubectl would silently mangle is refused: duplicate keys,
//! a second document, numbers without a form in JSON.
//!
//! Aliases, nesting and the size of the result are bounded before memory is spent. Before it: `body.rs`.

pub(crate) mod scalar;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use scalar::ScalarTag;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Deepest nesting; serde_json stops at 128, and every part of the way reads the document again.
const DEPTH_MAX: usize = 100;
/// Most aliases: a hand-written document has a few.
const ALIASES_MAX: usize = 200;
/// Most scalars, lists and maps with aliases resolved, so that a bomb of aliases ends while it is small.
const NODES_MAX: usize = 50_000;

/// Why a document was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub(crate) struct YamlError {
    line: usize,
    column: usize,
    message: String,
}

impl YamlError {
    fn at(span: &Span, message: impl Into<String>) -> Self {
        Self { line: span.start.line(), column: span.start.col() + 1, message: message.into() }
    }
}

impl From<ScanError> for YamlError {
    fn from(error: ScanError) -> Self {
        Self { line: error.marker().line(), column: error.marker().col() + 1, message: error.info() }
    }
}

/// The only document of a text; null when there is none. With aliases resolved it holds at most `text_bytes_max` bytes of
/// text.
///
/// # Errors
/// When it is not YAML, above a limit, or has no form in JSON.
pub(crate) fn read(text: &str, text_bytes_max: usize) -> Result<Value, YamlError> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
        block_scalar_eof_without_line_feed: true,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    Reader { parser, anchors: HashMap::new(), cost: Cost::default(), text_bytes_max, aliases: 0, depth: 0 }.stream()
}

/// What a node takes, aliases resolved.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    nodes: usize,
    text_bytes: usize,
}

struct Anchored {
    value: Value,
    cost: Cost,
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Anchored>,
    cost: Cost,
    text_bytes_max: usize,
    aliases: usize,
    depth: usize,
}

impl<'t> Reader<'t> {
    fn stream(mut self) -> Result<Value, YamlError> {
        let mut document = Value::Null;
        loop {
            let (event, _) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(document),
                Event::DocumentStart(..) => {
                    let (event, span) = self.next()?;
                    let value = self.node(event, &span)?;
                    if value.is_null() {
                        continue;
                    }
                    if !document.is_null() {
                        return Err(YamlError::at(&span, "a second document begins here; send one document a request"));
                    }
                    document = value;
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), YamlError> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(error.into()),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'t>, span: &Span) -> Result<Value, YamlError> {
        let before = self.cost;
        let (value, anchor) = match event {
            Event::Alias(id) => return self.alias(id, span),
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(Cost { nodes: 1, text_bytes: text.len() }, span)?;
                let tag = scalar_tag(style, tag.as_deref());
                (scalar::resolve(tag, &text).map_err(|message| YamlError::at(span, message))?, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.nested(span, Self::sequence)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.nested(span, Self::mapping)?, anchor),
            _ => return Err(YamlError::at(span, "a value is missing here")),
        };
        if anchor != 0 {
            let cost =
                Cost { nodes: self.cost.nodes - before.nodes, text_bytes: self.cost.text_bytes - before.text_bytes };
            // The copy that aliases are made from takes memory, too.
            self.spend(cost, span)?;
            self.anchors.insert(anchor, Anchored { value: value.clone(), cost });
        }
        Ok(value)
    }

    fn nested(
        &mut self,
        span: &Span,
        read: impl FnOnce(&mut Self) -> Result<Value, YamlError>,
    ) -> Result<Value, YamlError> {
        self.spend(Cost { nodes: 1, text_bytes: 0 }, span)?;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(YamlError::at(span, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn sequence(&mut self) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Value::Array(items));
            }
            items.push(self.node(event, &span)?);
        }
    }

    fn mapping(&mut self) -> Result<Value, YamlError> {
        let (mut fields, mut merged) = (Map::new(), None);
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let merges = is_merge_key(&event);
            let name = self.node(event, &span)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, &value_span)?;
            if merges {
                let more = merge(value).ok_or_else(|| YamlError::at(&span, "<< merges maps only"))?;
                if let Some(name) = more.keys().find(|name| fields.contains_key(*name)) {
                    let message = format!("<< sets the key {name:?} that stands before it; write << first");
                    return Err(YamlError::at(&span, message));
                }
                if merged.replace(more).is_some() {
                    return Err(YamlError::at(&span, "the key << stands twice; merge a list of maps instead"));
                }
                continue;
            }
            let name = key(name).map_err(|message| YamlError::at(&span, message))?;
            if fields.contains_key(&name) {
                return Err(YamlError::at(&span, format!("the key {name:?} stands twice in this map")));
            }
            fields.insert(name, value);
        }
        let mut whole = merged.unwrap_or_default();
        whole.extend(fields);
        Ok(Value::Object(whole))
    }

    fn alias(&mut self, id: usize, span: &Span) -> Result<Value, YamlError> {
        self.aliases += 1;
        if self.aliases > ALIASES_MAX {
            return Err(YamlError::at(span, format!("more than {ALIASES_MAX} aliases")));
        }
        let Some(cost) = self.anchors.get(&id).map(|anchored| anchored.cost) else {
            return Err(YamlError::at(span, "the alias stands within what it names"));
        };
        self.spend(cost, span)?;
        Ok(self.anchors[&id].value.clone())
    }

    fn spend(&mut self, cost: Cost, span: &Span) -> Result<(), YamlError> {
        self.cost.nodes += cost.nodes;
        self.cost.text_bytes += cost.text_bytes;
        if self.cost.nodes > NODES_MAX {
            return Err(YamlError::at(span, format!("more than {NODES_MAX} values, aliases resolved")));
        }
        if self.cost.text_bytes > self.text_bytes_max {
            let message = format!("more than {} bytes of text, aliases resolved", self.text_bytes_max);
            return Err(YamlError::at(span, message));
        }
        Ok(())
    }
}

fn is_merge_key(event: &Event<'_>) -> bool {
    matches!(event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<")
}

/// The fields that `<<` brings; of several maps the first one wins.
fn merge(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(fields) => Some(fields),
        Value::Array(maps) => {
            let mut all = Map::new();
            for map in maps.into_iter().rev() {
                let Value::Object(fields) = map else { return None };
                all.extend(fields);
            }
            Some(all)
        }
        _ => None,
    }
}

/// A map's key as JSON has it: kubectl makes texts of numbers and booleans.
fn key(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
        Value::Number(number) => Err(format!("the key {number} is a fraction; quote it")),
        Value::Null => Err("a key is empty; quote it if a text is meant".to_owned()),
        Value::Array(_) | Value::Object(_) => Err("a key is a list or map; JSON has texts only".to_owned()),
    }
}

fn scalar_tag(style: ScalarStyle, tag: Option<&Tag>) -> ScalarTag {
    let Some(tag) = tag else {
        return if style == ScalarStyle::Plain { ScalarTag::Untagged } else { ScalarTag::Text };
    };
    match tag.suffix_in_namespace("tag:yaml.org,2002:").as_deref() {
        Some("bool") => ScalarTag::Bool,
        Some("int") => ScalarTag::Int,
        Some("float") => ScalarTag::Float,
        Some("null") => ScalarTag::Null,
        Some("binary") => ScalarTag::Binary,
        _ => ScalarTag::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Value, YamlError> {
        super::read(text, 1024 * 1024)
    }

    #[test]
    fn a_file_mode_is_octal_and_a_quoted_one_is_text() {
        let document = read("defaultMode: 0400\nother: 0644\nnew: 0o400\nvalue: \"007\"\nenv: 007\n").unwrap();
        assert_eq!(document, json!({ "defaultMode": 256, "other": 420, "new": 256, "value": "007", "env": 7 }));
        assert_eq!(document.to_string().matches('.').count(), 0, "no number has a fraction: {document}");
    }

    #[test]
    fn documents_mean_what_kubectl_makes_of_them() {
        // Printed by sigs.k8s.io/yaml 1.6.0 (YAMLToJSON).
        for (text, expected) in [
            ("key: ", json!({ "key": null })),
            ("key: |\n  007", json!({ "key": "007" })),
            ("key: >\n  a\n  b", json!({ "key": "a b" })),
            ("007: a", json!({ "7": "a" })),
            ("yes: a", json!({ "true": "a" })),
            ("a: {1: x, y: z}", json!({ "a": { "1": "x", "true": "z" } })),
            ("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", json!({ "a": { "b": 1, "c": 2 }, "d": { "b": 3, "c": 2 } })),
            (
                "a: &x {b: 1}\ne: &y {b: 2, c: 3}\nd: {<<: [*x, *y]}",
                json!({ "a": { "b": 1 }, "e": { "b": 2, "c": 3 }, "d": { "b": 1, "c": 3 } }),
            ),
            ("d: {\"<<\": {b: 1}, c: 2}", json!({ "d": { "<<": { "b": 1 }, "c": 2 } })),
            ("a: &x 0400\nb: *x", json!({ "a": 256, "b": 256 })),
            ("a: &x \"0400\"\nb: *x", json!({ "a": "0400", "b": "0400" })),
            ("%YAML 1.1\n---\na: 0400", json!({ "a": 256 })),
            ("a: 1\n---\n", json!({ "a": 1 })),
            ("---\n# nothing\n---\na: 1", json!({ "a": 1 })),
            ("a: 1\n...", json!({ "a": 1 })),
            ("a:\tb", json!({ "a": "b" })),
            ("a: [1,\t2]", json!({ "a": [1, 2] })),
            ("a: !foo 7", json!({ "a": "7" })),
            ("a: !!str 007", json!({ "a": "007" })),
            ("a: !!int \"7\"", json!({ "a": 7 })),
            ("a: {\"b\":1}", json!({ "a": { "b": 1 } })),
            ("a: 'it''s'", json!({ "a": "it's" })),
            ("# only a comment", Value::Null),
            ("", Value::Null),
        ] {
            assert_eq!(read(text).as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
        for (text, says) in [
            ("a: 1\na: 2", "line 2, column 1: the key \"a\" stands twice"),
            ("a: {1: x, \"1\": y}", "stands twice"),
            ("a: 1\n---\nb: 2", "line 3, column 1: a second document"),
            ("a:\n\tb: 1", "line 2"),
            ("a: &x {b: 1}\nd: {b: 3, <<: *x}", "write << first"),
            ("d: {<<: {b: 1}, <<: {c: 1}}", "stands twice"),
            ("d: {<<: 5}", "merges maps only"),
            ("~: a", "a key is empty"),
            ("1.5: a", "quote it"),
            ("? [a]\n: b", "a key is a list"),
            ("a: .inf", "no form in JSON"),
            ("a: &a [*a]", "within what it names"),
            ("a: *b", "line 1"),
            ("a: @b", "line 1"),
            ("a: b: c", "line 1"),
            ("a: [1", "line"),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn bombs_end_while_they_are_small() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let aliases = format!("*a{},", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", aliases.trim_end_matches(',')));
        }
        assert!(read(&bomb).is_err());
        let long = format!("a: &a \"{}\"\nb: [{}]", "x".repeat(100_000), "*a,".repeat(50));
        assert!(read(&long).unwrap_err().to_string().contains("bytes of text"));
        let many = format!("a: &a 1\nb: [{}]", "*a,".repeat(ALIASES_MAX + 1));
        assert!(read(&many).unwrap_err().to_string().contains("aliases"));
        let flow = format!("a: {}1{}", "[".repeat(5000), "]".repeat(5000));
        assert!(read(&flow).is_err());
        let block = (0..200).map(|level| format!("{}a:\n", " ".repeat(level))).collect::<String>();
        assert!(read(&block).is_err());
    }
}
