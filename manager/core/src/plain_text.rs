//! Texts that users write and others read in one line: of a list, a log, the audit trail.

/// Whether a text has at most so many characters, none of them a control character: a line break in it would begin another line, and
/// an escape sequence would be carried out by the terminal that shows it.
#[must_use]
pub fn is_plain(text: &str, length_max: usize) -> bool {
    text.chars().count() <= length_max && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_counted_and_none_of_them_controls_a_terminal() {
        for text in ["", "ann", "tür", "a b"] {
            assert!(is_plain(text, 3), "{text:?}");
        }
        for text in ["anna", "a\n", "\t", "\u{1b}[", "\u{7f}", "\u{85}"] {
            assert!(!is_plain(text, 3), "{text:?}");
        }
    }
}
