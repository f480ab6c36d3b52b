//! The one rule for names that callers choose: a DNS label, short enough that names made from it still are one.

use crate::refusal::{Reason, Refusal};

/// Longest name: `<name>-owner`, `<name>-apps` and names KubeVela makes from them stay below 63.
pub const NAME_LENGTH_MAX: usize = 50;

/// First words that belong to Kubernetes and to what we install.
const RESERVED: [&str; 9] =
    ["default", "kube", "kubernetes", "kubenova", "capsule", "projectcapsule", "vela", "kubevela", "oam"];

/// Checks a name; `what` is the object's kind in words.
///
/// # Errors
/// With [`Reason::NameInvalid`] and the rule that it breaks.
pub fn check(what: &str, text: &str) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::at(Reason::NameInvalid, "/name", why));
    if text.is_empty() {
        return refuse(format!("{what} name is empty"));
    }
    if text.len() > NAME_LENGTH_MAX {
        return refuse(format!("{what} name has {} characters, the most is {NAME_LENGTH_MAX}", text.len()));
    }
    let bytes = text.as_bytes();
    if let Some(wrong) = text.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')) {
        return refuse(format!("{what} name has {wrong:?}; only lower-case letters, digits and dashes are allowed"));
    }
    if !bytes[0].is_ascii_lowercase() || bytes[bytes.len() - 1] == b'-' {
        return refuse(format!("{what} name must begin with a letter and end with a letter or digit"));
    }
    Ok(())
}

/// Checks that a name does not begin with a word of Kubernetes or of what we install.
///
/// # Errors
/// With [`Reason::NameReserved`].
pub fn check_not_reserved(what: &str, text: &str) -> Result<(), Refusal> {
    match RESERVED
        .iter()
        .find(|word| text.strip_prefix(**word).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))
    {
        Some(word) => Err(Refusal::at(
            Reason::NameReserved,
            "/name",
            format!("{what} names beginning with \"{word}\" are reserved"),
        )),
        None => Ok(()),
    }
}

/// Makes a name type out of a checked text.
macro_rules! name_type {
    ($(#[doc = $doc:literal])* $name:ident, $what:literal, $also:expr) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// When it is not a good name; the refusal says why.
            pub fn parse(text: &str) -> Result<Self, $crate::refusal::Refusal> {
                $crate::label::check($what, text)?;
                let also: fn(&str) -> Result<(), $crate::refusal::Refusal> = $also;
                also(text)?;
                Ok(Self(text.to_owned()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
pub(crate) use name_type;

/// Makes an id type around a UUID.
macro_rules! id_type {
    ($(#[doc = $doc:literal])* $name:ident) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub uuid::Uuid);

        impl $name {
            /// Reads the hyphenated text.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                if text.len() != 36 {
                    return None;
                }
                uuid::Uuid::try_parse(text).ok().map(Self)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
pub(crate) use id_type;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn good_and_bad_names() {
        for good in ["a", "acme", "dc-1", "a1", "shop--eu", &"a".repeat(50)] {
            assert_eq!(check("tenant", good), Ok(()), "{good}");
        }
        for bad in ["", "1a", "-a", "a-", "Acme", "a_b", "a.b", "ä", "a b", "a\u{0}", &"a".repeat(51)] {
            let refusal = check("tenant", bad).unwrap_err();
            assert_eq!(refusal.reason, Reason::NameInvalid, "{bad:?}");
            assert_eq!(refusal.field.as_deref(), Some("/name"));
        }
    }

    #[test]
    fn reserved_words_stand_alone_or_before_a_dash() {
        for bad in ["kube", "kube-system", "capsule-x", "vela-system", "kubenova-a", "default"] {
            assert!(check_not_reserved("tenant", bad).is_err(), "{bad}");
        }
        for good in ["velasquez", "kubelets", "defaults", "acme"] {
            assert!(check_not_reserved("tenant", good).is_ok(), "{good}");
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_a_dns_label_and_so_are_its_namespaces(text in "[a-z0-9A-Z._-]{0,60}") {
            if check("tenant", &text).is_ok() {
                for name in [text.clone(), format!("{text}-owner"), format!("{text}-apps")] {
                    prop_assert!(name.len() <= 63);
                    prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
                    prop_assert!(!name.starts_with('-') && !name.ends_with('-'));
                }
            }
        }
    }
}
