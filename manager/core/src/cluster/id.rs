//! Ids of clusters.

use uuid::Uuid;

/// Digits of Crockford's base32 in lower case: no i, l, o, u.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// `c` and 26 digits of five bits for 128 bits.
const ID_LENGTH: usize = 27;

/// A cluster's id: `c` and the lower-case Crockford base32 of a UUIDv7. Never numeric (see `schema/subjects.rs`), and
/// its text order is its time order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(String);

impl ClusterId {
    /// The id made from a fresh UUIDv7.
    #[must_use]
    pub fn from_uuid(id: Uuid) -> Self {
        let bits = id.as_u128();
        let digits = (0..ID_LENGTH - 1).rev().map(|place| {
            let digit = (bits >> (place * 5)) & 31;
            char::from(ALPHABET[usize::try_from(digit).expect("five bits fit")])
        });
        Self(std::iter::once('c').chain(digits).collect())
    }

    /// Reads an id; none when the text is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('c')?.as_bytes();
        // 26 digits carry 130 bits, so the first may be at most 7.
        let is_id = digits.len() == ID_LENGTH - 1 && digits[0] <= b'7' && digits.iter().all(|d| ALPHABET.contains(d));
        is_id.then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a path names a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterRef {
    /// By id.
    Id(ClusterId),
    /// By name.
    Name(String),
}

impl ClusterRef {
    /// Reads either form; any other text is a name.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        ClusterId::parse(text).map_or_else(|| Self::Name(text.to_owned()), Self::Id)
    }
}

impl std::fmt::Display for ClusterRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_have_the_form_keep_their_order_and_read_back(a in any::<u128>(), b in any::<u128>()) {
            let (first, second) = (ClusterId::from_uuid(Uuid::from_u128(a)), ClusterId::from_uuid(Uuid::from_u128(b)));
            prop_assert_eq!(first.as_str().len(), 27);
            prop_assert_eq!(ClusterId::parse(first.as_str()), Some(first.clone()));
            prop_assert_eq!(a.cmp(&b), first.cmp(&second));
        }
    }

    #[test]
    fn other_texts_are_no_ids() {
        let good = ClusterId::from_uuid(Uuid::from_u128(1));
        assert_eq!(good.as_str(), "c00000000000000000000000001");
        let bad = [
            "",
            "c",
            "c0000000000000000000000000i",
            "C00000000000000000000000001",
            "c80000000000000000000000000",
            "000000000000000000000000000",
        ];
        for text in bad {
            assert_eq!(ClusterId::parse(text), None, "{text}");
        }
    }
}
