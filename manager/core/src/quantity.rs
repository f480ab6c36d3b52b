//! Amounts of CPU and memory that a caller chooses. What they mean is decided in `kubenova_schema::quantity`; here is
//! which of them may be chosen.

use crate::refusal::{Reason, Refusal};
use kubenova_schema::quantity::Quantity;

/// Most characters of an amount: a petabyte in bytes fits, and with any suffix the number can be counted.
const CHARACTERS_MAX: usize = 15;

/// Checks an amount: digits, optionally a fraction, and a unit. A sign or an exponent is refused, since no manifest
/// writes one, and `1E` could be either of two things.
///
/// # Errors
/// With [`Reason::FieldInvalid`] and this pointer.
pub fn check(pointer: &str, text: &str) -> Result<(), Refusal> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let is_plain = number.starts_with(|c: char| c.is_ascii_digit())
        && number.ends_with(|c: char| c.is_ascii_digit())
        && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && !text.ends_with('E')
        && text.len() <= CHARACTERS_MAX;
    if is_plain && Quantity::parse(text).is_ok() {
        return Ok(());
    }
    let detail = format!(
        "{text:?} is not a Kubernetes quantity like 8, 500m or 16Gi: write digits, optionally a fraction, and one of n, u, m, k, M, G, T, P, Ki, Mi, Gi, Ti, Pi, Ei, at most {CHARACTERS_MAX} characters"
    );
    Err(Refusal::at(Reason::FieldInvalid, pointer, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digits_with_a_unit_may_be_chosen() {
        for text in ["8", "500m", "16Gi", "1.5", "0", "100k", "999999999999999", "250000u", "8Ei", "99999999999999P"] {
            assert!(check("/cpu", text).is_ok(), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_their_place_and_what_a_quantity_looks_like() {
        for text in [
            "",
            "Gi",
            "-1",
            "+1",
            "1e3",
            "1E3",
            "1E",
            "1.5.",
            ".5",
            "5.",
            "8 ",
            "16gi",
            "1K",
            "٣",
            "1Gi\n",
            "1000000000000000",
        ] {
            let refusal = check("/quota/cpu", text).unwrap_err();
            assert_eq!(
                (refusal.reason, refusal.field.as_deref()),
                (Reason::FieldInvalid, Some("/quota/cpu")),
                "{text}"
            );
            assert!(refusal.detail.contains("16Gi"), "{refusal:?}");
        }
    }

    proptest! {
        /// The pattern of the OpenAPI document accepts what is accepted here, and nothing else.
        #[test]
        fn the_documented_pattern_is_the_rule(text in "[0-9]{1,11}([.][0-9]{1,2})?([numkMGTP]|[KMGTPE]i)?") {
            prop_assert_eq!(check("/cpu", &text).is_ok(), text.len() <= CHARACTERS_MAX);
        }
    }
}
