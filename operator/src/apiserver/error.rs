//! A failed call: what was attempted on which object, and what kind of failure it was.

use std::{fmt, time::Duration};

/// Longest wait that is taken from an answer: an API server asks for seconds.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// What was attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Read,
    List,
    Apply,
    Create,
    Replace,
    Delete,
    WriteStatus,
    /// Requesting something that is not an object, such as the version.
    Request,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Apply => "apply",
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::WriteStatus => "write the status of",
            Self::Request => "request",
        })
    }
}

/// A failed call to the API server.
#[derive(Debug, thiserror::Error)]
#[error("could not {verb} {kind} {name:?}")]
pub struct Error {
    /// What was attempted.
    pub verb: Verb,
    /// The kind.
    pub kind: String,
    /// `<namespace>/<name>` or the name.
    pub name: String,
    /// Why it failed.
    #[source]
    pub source: Box<kube::Error>,
}

impl Error {
    pub(super) fn new(verb: Verb, kind: &str, name: &str, source: kube::Error) -> Self {
        Self { verb, kind: kind.to_owned(), name: name.to_owned(), source: Box::new(source) }
    }

    /// An object that could not be turned into a request.
    #[must_use]
    pub fn unreadable(kind: &str, source: kube::Error) -> Self {
        Self::new(Verb::Read, kind, "", source)
    }

    fn code(&self) -> Option<u16> {
        match &*self.source {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        }
    }

    /// The object, or its kind, is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Another writer changed the object in between, or it exists already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// A right is missing, or a policy refused.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }

    /// The object itself is wrong; the same call will fail again.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self.code(), Some(400 | 422))
    }

    /// The object is larger than the API server or its store takes.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.code() == Some(413) || self.code().is_some() && self.reason().contains("request is too large")
    }

    /// The API server itself, a policy or a webhook refuses this very object.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.is_invalid() || self.is_forbidden()
    }

    /// No object gets through: the API server cannot be reached, is busy, or does not know the caller now.
    #[must_use]
    pub fn is_away(&self) -> bool {
        !matches!(self.code(), Some(code) if !matches!(code, 401 | 404 | 408 | 429 | 502 | 503 | 504))
    }

    /// How long the API server asks to wait before the next attempt; zero when it does not.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        let seconds = match &*self.source {
            kube::Error::Api(status) => status.details.as_ref().map_or(0, |details| details.retry_after_seconds),
            _ => 0,
        };
        Duration::from_secs(seconds.into()).min(RETRY_AFTER_MAX)
    }

    /// The server's message, or the transport error.
    #[must_use]
    pub fn reason(&self) -> String {
        match &*self.source {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        }
    }
}

/// An error with all its causes in one line, for conditions and events. Of an answer of the API server it takes only the
/// message.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let answer = next.downcast_ref::<kube::Error>().or_else(|| Some(&**next.downcast_ref::<Box<kube::Error>>()?));
        let words = match answer {
            Some(kube::Error::Api(status)) => status.message.clone(),
            _ => next.to_string(),
        };
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        if matches!(answer, Some(kube::Error::Api(_))) {
            break;
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_verb_kind_and_object_and_its_chain_the_cause() {
        let status = kube::core::Status::failure("namespaces \"a\" is forbidden", "Forbidden").with_code(403);
        let error = Error::new(Verb::Apply, "Namespace", "a", kube::Error::Api(status.boxed()));
        assert_eq!(error.to_string(), "could not apply Namespace \"a\"");
        assert!(error.is_forbidden() && !error.is_conflict());
        assert_eq!(chain(&error), "could not apply Namespace \"a\": namespaces \"a\" is forbidden");
        assert_eq!(error.retry_after(), Duration::ZERO);
    }

    #[test]
    fn the_wait_that_the_api_server_asks_for_is_read_from_its_answer() {
        let answer = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too many requests",
            "reason":"TooManyRequests","details":{"retryAfterSeconds":7},"code":429}"#;
        let status: kube::core::Status = serde_json::from_str(answer).unwrap();
        let error = Error::new(Verb::Apply, "Namespace", "a", kube::Error::Api(status.boxed()));
        assert_eq!(error.retry_after(), Duration::from_secs(7));
    }
}
