//! Whether a good token is enough to become a cluster.

/// Whether enrollments of a cluster wait for an administrator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Approval {
    /// A good token is enough.
    #[default]
    Automatic,
    /// An administrator approves each installation.
    Manual,
}

impl Approval {
    /// The text in the database and in REST.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::Manual => "manual",
        }
    }

    /// The one with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Automatic, Self::Manual].into_iter().find(|approval| approval.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read_back() {
        for approval in [Approval::Automatic, Approval::Manual] {
            assert_eq!(Approval::parse(approval.as_str()), Some(approval));
        }
        assert_eq!(Approval::parse(""), None);
    }
}
