//! Whether something else went wrong during a measurement: a number that was bought with failures is none.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use kubenova_scenarios::platform::Platform;
use serde_json::Value;

use crate::database::Database;

/// Warnings that are printed, the frequent ones first.
const WARNINGS: usize = 8;
/// What must stay as it was.
const COUNTED: [(&str, &str); 4] = [
    ("refused hellos", "select count(*) from hello_refusals"),
    ("dead letters", "select count(*) from dead_letters"),
    ("divergences", "select count(*) from divergences"),
    (
        "commands that ended otherwise",
        "select count(*) from commands where finished_at is not null and state <> 'succeeded'",
    ),
];

/// How much of the Manager's log was there before.
#[derive(Debug)]
pub(crate) struct Health {
    bytes: usize,
}

impl Health {
    /// From now on.
    pub(crate) fn begin(platform: &Platform) -> Result<Self> {
        Ok(Self { bytes: platform.manager.log()?.len() })
    }

    /// Prints what went wrong since then, and fails when it is more than a warning.
    pub(crate) async fn print(&self, platform: &Platform) -> Result<()> {
        println!("\n| what else happened | |\n| --- | --- |");
        let mut database = Database::of_product(platform).await?;
        let mut wrong = 0;
        for (name, sql) in COUNTED {
            let count = database.number(sql).await?;
            println!("| {name} | {count} |");
            wrong += count;
        }
        let log = platform.manager.log()?;
        let (errors, warnings) = (lines(&log[self.bytes..], "ERROR"), lines(&log[self.bytes..], "WARN"));
        println!("| errors that the Manager logged | {} |", errors.values().sum::<usize>());
        println!("| warnings that the Manager logged | {} |", warnings.values().sum::<usize>());
        let mut frequent: Vec<_> = warnings.into_iter().collect();
        frequent.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (message, count) in errors.iter().map(|(message, count)| (message, *count)) {
            println!("| error: {message} | {count} |");
        }
        for (message, count) in frequent.iter().take(WARNINGS) {
            println!("| warning: {message} | {count} |");
        }
        ensure!(wrong == 0 && errors.is_empty(), "something else went wrong: no measurement");
        Ok(())
    }
}

/// Messages of a level in a log of JSON lines, with how often each was logged.
fn lines(log: &str, level: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let values = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    for value in values.filter(|value| value["level"] == level) {
        let message = value.pointer("/fields/message").or(value.get("message")).and_then(Value::as_str).unwrap_or("?");
        *found.entry(message.to_owned()).or_default() += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_by_level_in_both_forms() {
        let log = "{\"level\":\"WARN\",\"message\":\"a\"}\nnot JSON\n{\"level\":\"WARN\",\"fields\":{\"message\":\"a\"}}\n\
                   {\"level\":\"ERROR\",\"message\":\"b\"}\n{\"level\":\"INFO\",\"message\":\"c\"}";
        assert_eq!(lines(log, "WARN"), BTreeMap::from([("a".to_owned(), 2)]));
        assert_eq!(lines(log, "ERROR"), BTreeMap::from([("b".to_owned(), 1)]));
    }
}
