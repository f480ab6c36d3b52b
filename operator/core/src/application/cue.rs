//! Messages of KubeVela as users read them: without the CUE value that KubeVela appends to an error.

/// How KubeVela begins the error of a step in CUE; the value of the step ends it.
const CALL: &str = "function call error for ";
const VALUE: &str = " (value: ";

/// The message without the value of the step that failed, which says nothing to whoever wrote the application.
#[must_use]
pub(super) fn without_value(message: &str) -> &str {
    let Some(call) = message.find(CALL) else { return message };
    let Some(value) = message[call..].find(VALUE) else { return message };
    let (kept, value) = message.split_at(call + value);
    // Whatever follows the value belongs to the message; a value that was cut off on the way has no end.
    let is_the_end = value.ends_with(')') || !value.contains(')');
    if is_the_end { kept } else { message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_value_of_the_failed_step_is_left_out() {
        let of = |value: &str| {
            format!("run step(provider=oam): function call error for return: no such image (value: {value}")
        };
        for value in
            ["cue/format: unsupported node type <nil>)", "{\n\ta: f(1)\n})", "{a: (b)} (value: x))", "{a: \"cut o"]
        {
            let message = of(value);
            assert_eq!(
                without_value(&message),
                "run step(provider=oam): function call error for return: no such image"
            );
        }
    }

    #[test]
    fn other_messages_stay_whole() {
        for message in [
            "",
            "Ready:1/2",
            "spec.x: Invalid (value: 3)",
            "function call error for return: no such image",
            "function call error for return: a (value: x); and then another error",
        ] {
            assert_eq!(without_value(message), message);
        }
    }

    proptest! {
        #[test]
        fn what_is_left_begins_the_message(message in ".*", before in ".*") {
            prop_assert!(message.starts_with(without_value(&message)));
            let failed = format!("{before}{CALL}x: y{VALUE}{message})");
            let left = without_value(&failed);
            prop_assert!(failed.starts_with(left) && (before.contains(VALUE) || left.len() >= before.len()));
        }
    }
}
