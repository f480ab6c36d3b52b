//! Named operations: whether one may begin.
//!
//! An operation is carried out once. Its beginning is written into the record before its effect, with what it found; from then on
//! it neither expires nor is it cancelled. A crash between effect and result is decided by what was found: the effect is due while
//! the cluster looks as it did then, and has happened once it does not. After this file: `workflow`.

use jiff::Timestamp;
use kubenova_schema::mutant;
use serde::Deserialize;

/// Whether an operation that has not begun may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Now,
    /// The Manager's clock was not measured since the Operator started, so it cannot be said whether the deadline has passed.
    ClockUnknown,
    /// Its deadline has passed.
    Late,
}

/// Compares the deadline with the Manager's clock. A deadline that cannot be read has passed.
#[must_use]
pub fn may_start(not_after: &str, manager_now: Option<Timestamp>) -> Start {
    match (not_after.parse::<Timestamp>(), manager_now) {
        (Err(_), _) => Start::Late,
        (Ok(_), None) => Start::ClockUnknown,
        (Ok(deadline), Some(now)) if now > deadline && !mutant::is_on("operation.deadline") => Start::Late,
        (Ok(_), Some(_)) => Start::Now,
    }
}

/// The document of an operation about an application.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationTarget {
    pub tenant_id: String,
    pub application: String,
}

/// Reads the document of an operation about an application.
///
/// # Errors
/// With a sentence when it is not one.
pub fn application_target(document: &str) -> Result<ApplicationTarget, String> {
    serde_json::from_str(document).map_err(|error| format!("the document names no application of a tenant: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn nothing_begins_after_its_deadline_or_by_a_clock_that_was_not_measured() {
        let deadline = "1970-01-01T00:01:40Z";
        assert_eq!(may_start(deadline, Some(at(100))), Start::Now);
        assert_eq!(may_start(deadline, Some(at(101))), Start::Late);
        assert_eq!(may_start(deadline, None), Start::ClockUnknown);
        assert_eq!(may_start("", Some(at(0))), Start::Late);
    }

    #[test]
    fn a_target_is_read_strictly_enough() {
        let target = application_target(r#"{"tenantId":"0198","application":"shop"}"#).unwrap();
        assert_eq!((target.tenant_id.as_str(), target.application.as_str()), ("0198", "shop"));
        assert!(application_target("{}").is_err());
    }
}
