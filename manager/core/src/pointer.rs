//! JSON pointers (RFC 6901) to the field of a request that is wrong.

use std::fmt;

/// The way to a field, from the outside in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// The pointer to a field of what this one points to.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        let mut segments = self.0.clone();
        segments.push(name.to_owned());
        Self(segments)
    }

    /// The pointer to an item of the list this one points to.
    #[must_use]
    pub fn item(&self, index: usize) -> Self {
        self.field(&index.to_string())
    }

    /// The same pointer, seen from the object that holds `name`.
    #[must_use]
    pub fn within(mut self, name: &str) -> Self {
        self.0.insert(0, name.to_owned());
        self
    }

    /// The innermost name.
    #[must_use]
    pub fn last(&self) -> Option<&str> {
        self.0.last().map(String::as_str)
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|segment| write!(f, "/{}", segment.replace('~', "~0").replace('/', "~1")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_and_tildes_are_escaped() {
        let pointer = Pointer::default().field("labels").field("a/b~c").within("metadata");
        assert_eq!(pointer.to_string(), "/metadata/labels/a~1b~0c");
        assert_eq!(Pointer::default().field("items").item(3).to_string(), "/items/3");
        assert_eq!(Pointer::default().to_string(), "");
        assert_eq!(pointer.last(), Some("a/b~c"));
    }
}
