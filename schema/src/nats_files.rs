//! Files of NATS programs as both sides write them: the Manager for the broker and its users, the Operator for a leaf node.

/// Largest message that a server takes, in bytes: above the largest that we write (512 KB chunks), with room for headers.
pub const MAX_PAYLOAD: u32 = 1_048_576;

/// A credentials file.
#[must_use]
pub fn credentials(user_jwt: &str, seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

/// A text, quoted for a server's configuration.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_within_its_quotes() {
        assert_eq!(quoted(r#"a"b\c"#), r#""a\"b\\c""#);
    }
}
