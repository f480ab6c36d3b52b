//! Cursors at the edge: opaque text for people, list, filter and key for us.

use data_encoding::BASE64URL_NOPAD;
use kubenova_core::{
    page::{self, Page},
    refusal::{Reason, Refusal},
};

/// Longest cursor; ours have well below 200.
const LENGTH_MAX: usize = 1024;

/// The page that a query asks for.
///
/// # Errors
/// With [`Reason::CursorInvalid`].
pub fn page(list: &str, filter: &str, cursor: Option<&str>, limit: Option<u32>) -> Result<Page, Refusal> {
    let after = cursor.map(|text| read(list, filter, text)).transpose()?;
    Ok(Page::new(after, limit))
}

fn read(list: &str, filter: &str, text: &str) -> Result<String, Refusal> {
    let altered = || Refusal::new(Reason::CursorInvalid, "the cursor was altered");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_altered_ones_do_not() {
        let cursor = after("tenants", "", "0198");
        assert_eq!(page("tenants", "", Some(&cursor), None).unwrap().after.as_deref(), Some("0198"));
        for bad in ["", "!!", "AAAA", &cursor[1..], &"A".repeat(2000)] {
            assert_eq!(page("tenants", "", Some(bad), None).unwrap_err().reason, Reason::CursorInvalid, "{bad}");
        }
    }
}
