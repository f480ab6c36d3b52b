//! Whether a live object already says everything that is wanted of it, so that a pass with nothing to do writes nothing.

use serde_json::Value;

/// True when every value that is wanted is there; what else is there does not matter. Lists must be of the same length,
/// element by element: server defaults add fields to elements, never elements.
#[must_use]
pub fn is_superset(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| match live.get(key) {
            Some(live) => is_superset(live, wanted),
            // The API server leaves out what is empty.
            None => is_empty(wanted),
        }),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| is_superset(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_server_adds_does_not_matter_and_what_differs_does() {
        let live = json!({"a":1,"b":{"c":[{"x":1,"added":true}]},"added":0});
        assert!(is_superset(&live, &json!({"a":1,"b":{"c":[{"x":1}]},"empty":[],"none":null})));
        assert!(!is_superset(&live, &json!({"a":2})));
        assert!(!is_superset(&live, &json!({"b":{"c":[]}})));
        assert!(!is_superset(&live, &json!({"missing":"x"})));
    }
}
