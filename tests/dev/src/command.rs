//! What can be asked of `cargo dev`, and the words that explain it.
//!
//! Parsing touches nothing: a mistake is reported before any work starts, and says what to type
//! instead.

use std::ffi::OsString;

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Print help, of one command or of all.
    Help(Option<&'static str>),
    /// Build the servers that are missing, or only say which.
    Servers {
        /// Print the plan and stop.
        plan_only: bool,
        /// Only these; all if empty.
        names: Vec<String>,
    },
    /// Everything CI runs, or the tests that match a filter.
    Test(TestOptions),
    /// The part of `test` that needs no servers.
    Check,
    /// Rewrite the derived files.
    Generate {
        /// Passed on to the generator.
        args: Vec<OsString>,
    },
    /// Run the product on real servers: `demo`, `up` and `down`.
    Demo(DemoOptions),
    /// Run benchmarks and campaigns.
    Bench {
        /// Passed on to the benchmark driver.
        args: Vec<OsString>,
    },
    /// Remove what the cache holds.
    Clean {
        /// Do not ask.
        yes: bool,
    },
}

/// How `cargo dev test` runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TestOptions {
    /// Only tests whose name contains this.
    pub(crate) filter: Option<String>,
    /// How many scenarios run at once, in each test binary.
    pub(crate) threads: Option<usize>,
}

/// How the product is run for a person.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DemoOptions {
    /// `demo`, `up` or `down`.
    pub(crate) verb: &'static str,
    /// Print the plan and stop.
    pub(crate) plan_only: bool,
    /// Passed on to the demo driver.
    pub(crate) args: Vec<OsString>,
}

struct Topic {
    name: &'static str,
    usage: &'static str,
    summary: &'static str,
    detail: &'static str,
}

const TOPICS: &[Topic] = &[
    Topic {
        name: "demo",
        usage: "demo [--once] [--plan] [--keep]",
        summary: "a working fleet on this machine, with a URL to open",
        detail: "  --once   run through the story, print the result, stop and clean up
  --keep   leave the data folder in place afterwards
  --plan   print what would be built and run, and stop",
    },
    Topic {
        name: "up",
        usage: "up [--once] [--bare] [--clusters N] [--plan]",
        summary: "bare clusters with Capsule and KubeVela, until Ctrl-C",
        detail: "  --once         end when an application was seen running
  --bare         only the cluster, nothing installed
  --clusters N   how many clusters
  --plan         print what would be built and run, and stop",
    },
    Topic { name: "down", usage: "down", summary: "says how to stop what runs", detail: "" },
    Topic {
        name: "test",
        usage: "test [filter] [--threads N]",
        summary: "everything CI runs; with a filter, only tests whose name contains it",
        detail: "  --threads N   scenarios at once (2; also KUBENOVA_TEST_THREADS)",
    },
    Topic { name: "check", usage: "check", summary: "the part of `test` that needs no servers", detail: "" },
    Topic {
        name: "gen",
        usage: "gen",
        summary: "rewrite the derived files (CRDs, OpenAPI, protobuf types)",
        detail: "",
    },
    Topic {
        name: "servers",
        usage: "servers [--plan] [name ...]",
        summary: "build the real servers that are missing",
        detail: "  --plan   print what is there, what is missing and how long it takes",
    },
    Topic { name: "bench", usage: "bench [name]", summary: "measure, as ratios to the raw stage", detail: "" },
    Topic { name: "campaign", usage: "campaign <name>", summary: "a long run of faults or load", detail: "" },
    Topic {
        name: "clean",
        usage: "clean [--yes]",
        summary: "remove what the cache holds",
        detail: "  --yes   do not ask",
    },
];

/// Parses the words after `cargo dev`. An error is a sentence for the person who typed them.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut words = words.into_iter();
    let Some(verb) = words.next() else {
        return Ok(Command::Help(None));
    };
    let verb = verb.to_string_lossy().into_owned();
    if matches!(verb.as_str(), "help" | "--help" | "-h") {
        let topic = match words.next() {
            Some(word) => Some(topic(&word.to_string_lossy())?.name),
            None => None,
        };
        return Ok(Command::Help(topic));
    }
    let topic = topic(&verb)?;
    let rest: Vec<OsString> = words.collect();
    if rest.iter().any(|word| word == "--help" || word == "-h") {
        return Ok(Command::Help(Some(topic.name)));
    }
    match topic.name {
        "servers" => parse_servers(topic, rest),
        "test" => parse_test(topic, rest),
        "check" => nothing_more(topic, &rest).map(|()| Command::Check),
        "gen" => Ok(Command::Generate { args: rest }),
        "clean" => parse_clean(topic, rest),
        "bench" => Ok(Command::Bench { args: rest }),
        "campaign" => parse_campaign(topic, rest),
        verb => parse_demo(verb, topic, rest),
    }
}

/// The help text, of one command or of all.
pub(crate) fn help(topic: Option<&'static str>) -> String {
    if let Some(topic) = TOPICS.iter().find(|known| Some(known.name) == topic) {
        let mut text = format!("cargo dev {}\n\n{}\n", topic.usage, topic.summary);
        if !topic.detail.is_empty() {
            text.push_str(&format!("\n{}\n", topic.detail));
        }
        return text;
    }
    let mut text = String::from(
        "\
Examples:
  cargo dev demo           see it work
  cargo dev test           what CI runs
  cargo dev test placement only the tests with `placement` in their name

Commands:
",
    );
    for topic in TOPICS {
        text.push_str(&format!("  {:<32} {}\n", topic.usage, topic.summary));
    }
    text.push_str(
        "
Environment:
  KUBENOVA_CACHE     where servers and build results go (~/.cache/kubenova)
  CARGO_TARGET_DIR   where Rust builds go (target/ in the cache)
",
    );
    text
}

fn topic(verb: &str) -> Result<&'static Topic, String> {
    if let Some(topic) = TOPICS.iter().find(|topic| topic.name == verb) {
        return Ok(topic);
    }
    let nearest = TOPICS
        .iter()
        .map(|topic| (distance(topic.name, verb), topic.name))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    Err(match nearest {
        Some((_, name)) => {
            format!("there is no command \"{verb}\"; did you mean `cargo dev {name}`?")
        }
        None => format!("there is no command \"{verb}\"; `cargo dev help` lists them"),
    })
}

fn parse_servers(topic: &Topic, rest: Vec<OsString>) -> Result<Command, String> {
    let mut plan_only = false;
    let mut names = Vec::new();
    for word in rest {
        match word.to_str() {
            Some("--plan") => plan_only = true,
            Some(name) if !name.starts_with('-') => names.push(name.to_owned()),
            _ => return Err(unexpected(topic, &word)),
        }
    }
    Ok(Command::Servers { plan_only, names })
}

fn parse_clean(topic: &Topic, rest: Vec<OsString>) -> Result<Command, String> {
    let mut yes = false;
    for word in rest {
        match word.to_str() {
            Some("--yes" | "-y") => yes = true,
            _ => return Err(unexpected(topic, &word)),
        }
    }
    Ok(Command::Clean { yes })
}

fn parse_test(topic: &Topic, rest: Vec<OsString>) -> Result<Command, String> {
    use lexopt::prelude::{Long, Value, ValueExt as _};
    let mut options = TestOptions::default();
    let mut parser = lexopt::Parser::from_args(rest);
    while let Some(arg) = parser.next().map_err(|error| format!("{error}; {}", usage(topic)))? {
        match arg {
            Long("threads") => {
                let threads = parser
                    .value()
                    .and_then(|value| value.parse::<usize>())
                    .ok()
                    .filter(|threads| *threads > 0)
                    .ok_or_else(|| format!("--threads needs a number of at least 1; {}", usage(topic)))?;
                options.threads = Some(threads);
            }
            Value(word) if options.filter.is_none() => {
                options.filter = Some(word.to_string_lossy().into_owned());
            }
            Value(word) => return Err(unexpected(topic, &word)),
            other => return Err(format!("{}; {}", other.unexpected(), usage(topic))),
        }
    }
    Ok(Command::Test(options))
}

fn parse_campaign(topic: &Topic, rest: Vec<OsString>) -> Result<Command, String> {
    match rest.first().and_then(|name| name.to_str()) {
        Some(name) if !name.starts_with('-') => {
            let args = std::iter::once(OsString::from("campaign")).chain(rest).collect();
            Ok(Command::Bench { args })
        }
        _ => Err(format!("campaign needs a name; {}", usage(topic))),
    }
}

fn parse_demo(verb: &'static str, topic: &Topic, rest: Vec<OsString>) -> Result<Command, String> {
    let mut options = DemoOptions { verb, plan_only: false, args: Vec::new() };
    let mut words = rest.into_iter();
    while let Some(word) = words.next() {
        match (verb, word.to_str()) {
            ("demo" | "up", Some("--plan")) => options.plan_only = true,
            ("demo", Some("--once" | "--keep")) | ("up", Some("--once" | "--bare")) => {
                options.args.push(word);
            }
            ("up", Some("--clusters")) => {
                let number = words.next().ok_or_else(|| format!("--clusters needs a number; {}", usage(topic)))?;
                options.args.extend([word, number]);
            }
            _ => return Err(unexpected(topic, &word)),
        }
    }
    Ok(Command::Demo(options))
}

fn nothing_more(topic: &Topic, rest: &[OsString]) -> Result<(), String> {
    match rest.first() {
        Some(word) => Err(unexpected(topic, word)),
        None => Ok(()),
    }
}

fn unexpected(topic: &Topic, word: &std::ffi::OsStr) -> String {
    format!("`{}` does not take \"{}\"; {}", topic.name, word.to_string_lossy(), usage(topic))
}

fn usage(topic: &Topic) -> String {
    format!("type `cargo dev {}`", topic.usage)
}

/// How many letters must be added, dropped or changed (Levenshtein), for "did you mean".
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn every_command_of_the_help_parses() {
        for line in ["demo", "up", "down", "test", "check", "gen", "servers", "bench", "campaign soak", "clean"] {
            assert!(parsed(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn test_takes_a_filter_and_threads() {
        let options = TestOptions { filter: Some("placement".into()), threads: Some(2) };
        assert_eq!(parsed("test placement --threads 2"), Ok(Command::Test(options)));
    }

    #[test]
    fn zero_threads_are_refused() {
        assert!(parsed("test --threads 0").unwrap_err().contains("at least 1"));
    }

    #[test]
    fn demo_keeps_plan_to_itself_and_passes_the_rest_on() {
        let options = DemoOptions { verb: "demo", plan_only: true, args: vec!["--once".into()] };
        assert_eq!(parsed("demo --once --plan"), Ok(Command::Demo(options)));
    }

    #[test]
    fn a_typo_gets_the_nearest_command() {
        assert!(parsed("tets").unwrap_err().contains("`cargo dev test`"));
    }

    #[test]
    fn a_bad_flag_gets_the_usage() {
        assert_eq!(
            parsed("servers --pln").unwrap_err(),
            "`servers` does not take \"--pln\"; type `cargo dev servers [--plan] [name ...]`"
        );
        assert!(parsed("test --fast").unwrap_err().contains("cargo dev test [filter]"));
        assert!(parsed("campaign").unwrap_err().contains("needs a name"));
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("test", "test"), 0);
        assert_eq!(distance("test", "tets"), 2);
        assert_eq!(distance("", "up"), 2);
    }
}
