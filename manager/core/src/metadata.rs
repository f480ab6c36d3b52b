//! Labels and annotations as Kubernetes takes them: what a cluster's API server will refuse is refused here, while the
//! caller is still there to read why.

use crate::{
    pointer::Pointer,
    refusal::{Reason, Refusal},
};
use std::collections::BTreeMap;

/// Longest prefix of a key: a DNS subdomain (apimachinery, `validation.DNS1123SubdomainMaxLength`).
const PREFIX_LENGTH_MAX: usize = 253;
/// Longest name of a key, and longest label value (`validation.LabelValueMaxLength`).
const NAME_LENGTH_MAX: usize = 63;
/// Most bytes of all annotations of an object. Kubernetes takes 256 KiB; 4 KiB are left for what KubeNova, KubeVela and
/// kubectl add.
pub const ANNOTATIONS_BYTES_MAX: usize = 252 * 1024;

/// Checks labels; `at` is where they stand in the request.
///
/// # Errors
/// With `reason` and the pointer of the first label that Kubernetes would refuse.
pub fn check_labels(labels: &BTreeMap<String, String>, at: &Pointer, reason: Reason) -> Result<(), Refusal> {
    for (key, value) in labels {
        let refuse = |why: String| Refusal::at(reason, at.field(key).to_string(), why);
        check_key(key).map_err(|why| refuse(format!("label key {key:?}: {why}")))?;
        if !value.is_empty() {
            check_name(value).map_err(|why| refuse(format!("value {value:?} of label {key:?}: {why}")))?;
        }
    }
    Ok(())
}

/// Checks annotations; `at` is where they stand in the request.
///
/// # Errors
/// With `reason` and the pointer of the first annotation that Kubernetes would refuse, or of all when they are too long.
pub fn check_annotations(annotations: &BTreeMap<String, String>, at: &Pointer, reason: Reason) -> Result<(), Refusal> {
    for key in annotations.keys() {
        // Kubernetes lets the prefix of an annotation be upper case.
        check_key(&key.to_lowercase())
            .map_err(|why| Refusal::at(reason, at.field(key).to_string(), format!("annotation key {key:?}: {why}")))?;
    }
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        let detail = format!("the annotations have {bytes} bytes in all, the most is {ANNOTATIONS_BYTES_MAX}");
        return Err(Refusal::at(reason, at.to_string(), detail));
    }
    Ok(())
}

/// `[prefix/]name`.
fn check_key(key: &str) -> Result<(), String> {
    match key.split_once('/') {
        None => check_name(key),
        Some((prefix, name)) => {
            check_prefix(prefix)?;
            check_name(name)
        }
    }
}

fn check_prefix(prefix: &str) -> Result<(), String> {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if prefix.len() > PREFIX_LENGTH_MAX {
        return Err(format!("the part before the slash has more than {PREFIX_LENGTH_MAX} characters"));
    }
    if !prefix.split('.').all(is_label) {
        return Err("the part before the slash must be a DNS name in lower case like example.com".to_owned());
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let bytes = name.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err("it is empty".to_owned());
    };
    if bytes.len() > NAME_LENGTH_MAX {
        return Err(format!("it has more than {NAME_LENGTH_MAX} characters"));
    }
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !first.is_ascii_alphanumeric() || !last.is_ascii_alphanumeric() || !bytes.iter().all(inner) {
        let rule = "only letters, digits, '-', '_' and '.' are allowed, with a letter or digit at both ends";
        return Err(rule.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(key: &str, value: &str) -> Result<(), Refusal> {
        let entries = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        check_labels(&entries, &Pointer::default().field("labels"), Reason::FieldInvalid)
    }

    fn annotations(key: &str, value: &str) -> Result<(), Refusal> {
        let entries = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        check_annotations(&entries, &Pointer::default().field("annotations"), Reason::FieldInvalid)
    }

    #[test]
    fn what_kubernetes_takes_is_taken() {
        let long = "a".repeat(63);
        let subdomain = format!("{}.{}.{}.{}/x", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        for (key, value) in [
            ("team", "web"),
            ("team", ""),
            ("A", "1.0_b-C"),
            ("example.com/name", "x"),
            ("a-b.c/d", "x"),
            (long.as_str(), long.as_str()),
            (subdomain.as_str(), "x"),
        ] {
            assert_eq!(labels(key, value), Ok(()), "{key}={value}");
        }
        assert_eq!(annotations("note", "any text at all, even ü and \n"), Ok(()));
        assert_eq!(annotations("Example.COM/name", "x"), Ok(()));
    }

    #[test]
    fn what_kubernetes_refuses_is_refused_with_its_pointer() {
        let (long, long_prefix) = ("a".repeat(64), format!("{}.b/x", "a.".repeat(126)));
        for key in [
            "",
            "a b",
            "-a",
            "a-",
            ".a",
            "ü",
            "a/b/c",
            "/a",
            "a/",
            "Example.com/a",
            "exa_mple.com/a",
            "a..b/c",
            "-a.b/c",
            long.as_str(),
            long_prefix.as_str(),
        ] {
            assert_eq!(labels(key, "x").unwrap_err().reason, Reason::FieldInvalid, "{key}");
            assert!(key == "Example.com/a" || annotations(key, "x").is_err(), "{key}");
        }
        for value in ["a b", "-a", "a-", "ü", "a/b", "a\n", long.as_str()] {
            assert!(labels("team", value).is_err(), "{value}");
        }
        assert_eq!(labels("a b/c", "x").unwrap_err().field.as_deref(), Some("/labels/a b~1c"));
        assert_eq!(annotations("a b", "x").unwrap_err().field.as_deref(), Some("/annotations/a b"));
        let refusal = annotations("note", &"x".repeat(ANNOTATIONS_BYTES_MAX)).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some("/annotations"));
    }

    proptest! {
        #[test]
        fn label_values_that_pass_match_kubernetes_own_expression(value in "[a-zA-Z0-9._ /-]{0,70}") {
            // ^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$ and at most 63 characters.
            let alphanumeric = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
            let good = value.len() <= 63
                && alphanumeric(value.chars().next())
                && alphanumeric(value.chars().last())
                && !value.contains([' ', '/']);
            prop_assert_eq!(labels("team", &value).is_ok(), good);
        }
    }
}
