//! Pages of a list: their size, and the text inside a cursor.
//!
//! A cursor remembers its list and filter, so that it cannot be used with another one. To callers it is opaque.

use crate::refusal::{Reason, Refusal};

/// Objects in a page when the caller chooses no size.
pub const PAGE_SIZE: u32 = 50;
/// Most objects in a page: a larger one would hold a connection for too long.
pub const PAGE_SIZE_MAX: u32 = 500;

/// One page of a list, by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Key of the last object the caller has; none for the first page.
    pub after: Option<String>,
    /// How many at most.
    pub size: u32,
}

impl Page {
    /// A page of the requested size, capped.
    #[must_use]
    pub fn new(after: Option<String>, size: Option<u32>) -> Self {
        Self { after, size: size.unwrap_or(PAGE_SIZE).clamp(1, PAGE_SIZE_MAX) }
    }

    /// How many rows to query: one more than requested, to know whether the list goes on.
    #[must_use]
    pub fn rows(&self) -> i64 {
        i64::from(self.size) + 1
    }

    /// Cuts the additional row off. True when the list goes on.
    pub fn cut<T>(&self, rows: &mut Vec<T>) -> bool {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let more = rows.len() > size;
        rows.truncate(size);
        more
    }
}

/// The text inside a cursor.
#[must_use]
pub fn cursor(list: &str, filter: &str, after: &str) -> String {
    format!("1\n{list}\n{filter}\n{after}")
}

/// Reads a cursor's text: the key after which the list goes on.
///
/// # Errors
/// With [`Reason::CursorInvalid`] when it is of another list or filter, or no cursor.
pub fn read_cursor(list: &str, filter: &str, text: &str) -> Result<String, Refusal> {
    let refuse = |why: &str| Err(Refusal::new(Reason::CursorInvalid, why));
    let parts: Vec<&str> = text.split('\n').collect();
    match parts.as_slice() {
        ["1", its_list, its_filter, after] if *its_list == list && *its_filter == filter => Ok((*after).to_owned()),
        ["1", its_list, _, _] if *its_list == list => refuse("the cursor belongs to another filter of this list"),
        ["1", _, _, _] => refuse("the cursor belongs to another list"),
        _ => refuse("the cursor is not one that a list returned as nextCursor"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_fits_only_its_list_and_filter() {
        let text = cursor("commands", "state=queued", "0198");
        assert_eq!(read_cursor("commands", "state=queued", &text).as_deref(), Ok("0198"));
        for (list, filter, text) in
            [("tenants", "state=queued", &*text), ("commands", "", &text), ("commands", "", "x")]
        {
            assert_eq!(read_cursor(list, filter, text).unwrap_err().reason, Reason::CursorInvalid);
        }
    }

    #[test]
    fn sizes_are_capped() {
        assert_eq!(Page::new(None, None).size, PAGE_SIZE);
        assert_eq!(Page::new(None, Some(0)).size, 1);
        assert_eq!(Page::new(None, Some(9999)).size, PAGE_SIZE_MAX);
        let mut rows = vec![1, 2, 3];
        assert!(Page::new(None, Some(2)).cut(&mut rows));
        assert_eq!(rows, [1, 2]);
    }
}
