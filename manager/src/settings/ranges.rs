//! The range of every number in the settings: a value with which the Manager cannot work is refused at the start.

use super::Settings;
use anyhow::{Result, bail};

/// One number of the settings.
struct Range {
    key: &'static str,
    unit: &'static str,
    min: u64,
    max: u64,
    read: fn(&Settings) -> u64,
}

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 3600;
/// A century: for ever.
const DAYS_MAX: u64 = 36_500;
const MINUTE_MS: u64 = 60 * 1000;

/// Every number but ports. A bound says where the Manager stops working, not what is wise; defaults are far from both.
const RANGES: [Range; 16] = [
    Range {
        key: "database.connectionsMax",
        unit: "connections",
        // The listener for commands holds one; a request and the relay must never wait for each other.
        min: 4,
        // More than any Postgres serves without a pooler.
        max: 1000,
        read: |settings| settings.database.connections_max.into(),
    },
    Range {
        key: "nats.pingIntervalSeconds",
        unit: "seconds",
        min: 1,
        // Two missed pings end a connection: above this a dead one is noticed too late to be a session.
        max: 10 * MINUTE,
        read: |settings| settings.nats.ping_interval_seconds,
    },
    Range {
        key: "lifetimes.certificateSeconds",
        unit: "seconds",
        // Below a minute, renewal does not finish before the end; certificates begin a little before they are made.
        min: MINUTE,
        // The certificate authority itself lives for ten years.
        max: 3650 * DAY,
        read: |settings| settings.lifetimes.certificate_seconds,
    },
    Range {
        key: "lifetimes.userJwtSeconds",
        unit: "seconds",
        min: MINUTE,
        max: 3650 * DAY,
        read: |settings| settings.lifetimes.user_jwt_seconds,
    },
    Range {
        key: "lifetimes.enrollmentTokenSeconds",
        unit: "seconds",
        // An installation takes this long.
        min: MINUTE,
        // A token is a password for a new cluster: it is made when it is needed.
        max: 365 * DAY,
        read: |settings| settings.lifetimes.enrollment_token_seconds,
    },
    Range {
        key: "lifetimes.serverSeconds",
        unit: "seconds",
        min: MINUTE,
        max: 3650 * DAY,
        read: |settings| settings.lifetimes.server_seconds,
    },
    Range {
        key: "intervals.heartbeatStaleMs",
        unit: "milliseconds",
        // The fastest Operator sends one a second.
        min: 2000,
        max: 60 * MINUTE_MS,
        read: |settings| settings.intervals.heartbeat_stale_ms,
    },
    Range {
        key: "intervals.resendAfterMs",
        unit: "milliseconds",
        // Sooner, every command is sent again before its acknowledgement can arrive.
        min: 1000,
        max: 60 * MINUTE_MS,
        read: |settings| settings.intervals.resend_after_ms,
    },
    Range {
        key: "intervals.reportAgainAfterMs",
        unit: "milliseconds",
        // Sooner, every command that takes its time is sent over and over.
        min: 1000,
        max: 24 * 60 * MINUTE_MS,
        read: |settings| settings.intervals.report_again_after_ms,
    },
    Range {
        key: "intervals.pollMs",
        unit: "milliseconds",
        // Sooner, the relay asks Postgres without a pause.
        min: 10,
        max: MINUTE_MS,
        read: |settings| settings.intervals.poll_ms,
    },
    Range {
        key: "retention.commandsDays",
        unit: "days",
        // A day's changes can be looked at.
        min: 1,
        max: DAYS_MAX,
        read: |settings| settings.retention.commands_days,
    },
    Range {
        key: "retention.auditDays",
        unit: "days",
        min: 1,
        max: DAYS_MAX,
        read: |settings| settings.retention.audit_days,
    },
    Range {
        key: "retention.deadLettersDays",
        unit: "days",
        min: 1,
        max: DAYS_MAX,
        read: |settings| settings.retention.dead_letters_days,
    },
    Range {
        key: "retention.enrollmentAttemptsDays",
        unit: "days",
        min: 1,
        max: DAYS_MAX,
        read: |settings| settings.retention.enrollment_attempts_days,
    },
    Range {
        key: "retention.refusedHellosDays",
        unit: "days",
        min: 1,
        max: DAYS_MAX,
        read: |settings| settings.retention.refused_hellos_days,
    },
    Range {
        key: "usage.windowSeconds",
        unit: "seconds",
        // As the Operator's chart has it.
        min: 5,
        max: DAY,
        read: |settings| settings.usage.window_seconds.into(),
    },
];

/// Refuses a number out of its range.
pub(super) fn check(settings: &Settings) -> Result<()> {
    for Range { key, unit, min, max, read } in &RANGES {
        let value = read(settings);
        if !(*min..=*max).contains(&value) {
            bail!("{key} is {value}: write a number of {unit} from {min} to {max}, or leave it out");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::path::Path;

    /// Settings with one number set.
    fn with(key: &str, value: u64) -> Result<Settings> {
        let mut settings = json!({
            "database": { "urlFile": "db.url" },
            "kekFile": "kek",
            "publicNames": ["manager.example"],
            "endpoints": ["https://manager.example:8443"],
            "nats": { "urls": ["tls://hub.example:4222"] },
        });
        let (section, name) = key.split_once('.').unwrap();
        settings[section][name] = value.into();
        Settings::parse(&settings.to_string(), Path::new("/etc/kubenova"))
    }

    #[test]
    fn both_ends_of_every_range_work_and_beyond_them_the_key_and_the_range_are_told() {
        for Range { key, min, max, read, .. } in &RANGES {
            for value in [*min, *max] {
                assert_eq!(read(&with(key, value).unwrap()), value, "{key} reads another number");
            }
            for value in [0, min - 1, max + 1] {
                let error = format!("{:#}", with(key, value).unwrap_err());
                assert!(error.starts_with(&format!("{key} is {value}: write a number of ")), "{error}");
                assert!(error.contains(&format!("from {min} to {max}")), "{error}");
            }
        }
    }

    /// The sections as the example has them: it names every number, so that one without a range is found here.
    #[test]
    fn every_number_of_the_example_has_a_range() {
        let example: Value = serde_saphyr::from_str(include_str!("../../../deploy/nats/manager.example.yaml")).unwrap();
        let mut numbers = 0;
        for (section, values) in example.as_object().unwrap() {
            // Components are checked by core, with what REST accepts.
            let values = values.as_object().filter(|_| section != "components");
            for (name, _) in values.into_iter().flatten().filter(|(_, value)| value.is_u64()) {
                let key = format!("{section}.{name}");
                assert!(RANGES.iter().any(|range| range.key == key), "{key} has no range");
                numbers += 1;
            }
        }
        assert_eq!(numbers, RANGES.len(), "the example names every number");
    }
}
