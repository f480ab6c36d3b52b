//! Pages of a list: the size that a caller may choose, and cursors.
//!
//! A cursor is opaque to callers. It contains the list, a fingerprint of the filter, and the key of the last object, so
//! that it cannot be used with another list or filter.

use crate::token;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use kubenova_core::{
    page::{self, PAGE_SIZE_MAX, Page},
    refusal::{Reason, Refusal},
};
use serde::{Deserialize, Deserializer, de::Error as _};

/// Longest cursor; ours have well below 200 characters.
const LENGTH_MAX: usize = 1024;
/// Bytes of a fingerprint: enough that two filters of one caller never share one by chance.
const FINGERPRINT_LENGTH: usize = 8;

/// The `limit` of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit(u32);

impl<'de> Deserialize<'de> for PageLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let limit = text.parse().ok().filter(|limit| (1..=PAGE_SIZE_MAX).contains(limit));
        limit
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is not a whole number from 1 to {PAGE_SIZE_MAX}")))
    }
}

/// The page that a query asks for; an altered or foreign cursor is refused with [`Reason::CursorInvalid`], also one whose
/// key is none of this list by `is_key`: cursors are not signed, and a caller can make one up.
pub fn page(
    list: &str,
    filter: &str,
    cursor: Option<&str>,
    limit: Option<PageLimit>,
    is_key: impl Fn(&str) -> bool,
) -> Result<Page, Refusal> {
    let after = cursor.map(|text| read(list, filter, text)).transpose()?;
    if after.as_deref().is_some_and(|key| !is_key(key)) {
        return Err(altered());
    }
    Ok(Page::new(after, limit.map(|limit| limit.0)))
}

fn altered() -> Refusal {
    Refusal::new(Reason::CursorInvalid, "the cursor is not one that a list returned as nextCursor")
}

fn read(list: &str, filter: &str, text: &str) -> Result<String, Refusal> {
    if text.len() > LENGTH_MAX {
        return Err(altered());
    }
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| altered())?;
    page::read_cursor(list, filter, &String::from_utf8(bytes).map_err(|_| altered())?)
}

/// The cursor after the object with this key.
#[must_use]
pub fn after(list: &str, filter: &str, key: &str) -> String {
    BASE64URL_NOPAD.encode(page::cursor(list, filter, key).as_bytes())
}

/// A short text that is the same for the same filter only.
#[must_use]
pub fn fingerprint<const N: usize>(filter: [(&str, Option<String>); N]) -> String {
    let mut text = String::new();
    for (name, value) in filter {
        // The length keeps a value from looking like the next field.
        if let Some(value) = value {
            text.push_str(&format!("{name}={}:{value};", value.len()));
        }
    }
    if text.is_empty() { text } else { HEXLOWER.encode(&token::sha256(text)[..FINGERPRINT_LENGTH]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_altered_ones_do_not() {
        let is_key = |key: &str| key == "0198";
        let cursor = after("tenants", "", "0198");
        assert_eq!(page("tenants", "", Some(&cursor), None, is_key).unwrap().after.as_deref(), Some("0198"));
        let made_up = after("tenants", "", "0199");
        for bad in [&made_up, "", "!!", "AAAA", &cursor[1..], &"A".repeat(2000)] {
            assert_eq!(
                page("tenants", "", Some(bad), None, is_key).unwrap_err().reason,
                Reason::CursorInvalid,
                "{bad}"
            );
        }
    }

    #[test]
    fn fingerprints_differ_where_filters_do() {
        let of = |tenant: Option<&str>, cluster: Option<&str>| {
            fingerprint([("tenant", tenant.map(str::to_owned)), ("cluster", cluster.map(str::to_owned))])
        };
        assert_eq!(of(None, None), "");
        assert_eq!(of(Some("a"), None), of(Some("a"), None));
        assert_ne!(of(Some("a"), None), of(None, Some("a")));
        assert_ne!(of(Some("a;cluster=1:b;"), None), of(Some("a"), Some("b")));
        assert!(of(Some("a"), None).chars().all(|c| c.is_ascii_hexdigit()));
    }

    #[test]
    fn limits_outside_of_the_documented_range_are_refused() {
        let read = |text: &str| serde_json::from_value::<PageLimit>(text.into()).ok();
        assert_eq!((read("1"), read("500")), (Some(PageLimit(1)), Some(PageLimit(PAGE_SIZE_MAX))));
        for bad in ["0", "501", "-1", "", "ten", "2147483648", "1.5"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
