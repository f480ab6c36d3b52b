//! Runs the commands of a document as its reader would, and compares what they print with what it says.
//!
//! In a block of `console`, a line that begins with `$ ` is a command and the lines below it are lines that it must print.
//! `…` stands for any text, and spaces are one space, since tables are as wide as what they hold.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// For a command to end: one that waits for a message waits for the next usage window.
const COMMAND_MAX_SECONDS: &str = "120";

/// A command of a document, and lines that it prints.
#[derive(Debug, PartialEq, Eq)]
pub struct Example {
    /// As for a shell.
    pub command: String,
    /// In which order they are printed does not matter.
    pub prints: Vec<String>,
}

impl Example {
    /// It only sets a variable, for the commands after it.
    fn is_export(&self) -> bool {
        self.command.starts_with("export ")
    }

    /// What the document says and was not printed.
    fn problems(&self, printed: &str) -> Vec<String> {
        let command = &self.command;
        if self.prints.is_empty() && !self.is_export() {
            return vec![format!("the document does not say what {command:?} prints")];
        }
        let absent = self.prints.iter().filter(|line| !printed.lines().any(|it| fits(it, line)));
        absent.map(|line| format!("{command:?} should print {line:?}, but printed:\n{printed}")).collect()
    }
}

/// Every command of a document, in order.
#[must_use]
pub fn examples(document: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            examples.push(Example { command: command.to_owned(), prints: Vec::new() });
        } else if let Some(example) = examples.last_mut().filter(|_| inside) {
            example.prints.push(line.to_owned());
        }
    }
    examples
}

/// Runs every command of a document in a folder, with these folders of programs before all others and with the variables that the
/// document has its reader set; returns how many ran.
///
/// # Errors
/// When a command fails, or does not print what the document says.
pub fn check(document: &str, folder: &Path, programs: &[&Path], variables: &[(&str, &Path)]) -> Result<usize> {
    let known = std::env::var_os("PATH").unwrap_or_default();
    let folders = programs.iter().map(|it| it.to_path_buf()).chain(std::env::split_paths(&known));
    let path = std::env::join_paths(folders).context("a folder of programs has a colon in its name")?;
    let examples = examples(document);
    let mut exports = String::new();
    let mut problems = Vec::new();
    for example in &examples {
        let script = format!("set -eu\n{exports}{}", example.command);
        match run(&script, folder, &path, variables) {
            Ok(printed) => problems.extend(example.problems(&printed)),
            Err(error) => problems.push(format!("{:?} failed: {error:#}", example.command)),
        }
        if example.is_export() {
            exports = format!("{exports}{}\n", example.command);
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(examples.len())
}

fn run(script: &str, folder: &Path, path: &OsString, variables: &[(&str, &Path)]) -> Result<String> {
    let output = Command::new("timeout")
        .args([COMMAND_MAX_SECONDS, "sh", "-c", script])
        .current_dir(folder)
        .env("PATH", path)
        .envs(variables.iter().copied())
        .output()
        .context("could not start a shell")?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}:\n{stdout}{stderr}", output.status);
    // `nats sub` says on standard error what it received.
    Ok(format!("{stdout}{stderr}"))
}

/// Whether a printed line is as written: the texts between `…` in their order, and the whole of it where none is at an end.
fn fits(printed: &str, written: &str) -> bool {
    let [printed, written] = [printed, written].map(|it| it.split_whitespace().collect::<Vec<_>>().join(" "));
    let parts: Vec<&str> = written.split('…').map(str::trim).collect();
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return false };
    if !printed.starts_with(first) || !printed.ends_with(last) || (parts.len() == 1 && printed != **first) {
        return false;
    }
    let mut rest = printed.as_str();
    parts.iter().all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_stand_in_console_blocks_with_what_they_print() {
        let document = "```sh\n$ no\n```\n$ no\n```console\n$ one\na\nb\n$ two\n```\nno\n```console\n$ three\n```\n";
        let command = |command: &str, prints: &[&str]| Example {
            command: command.to_owned(),
            prints: prints.iter().map(|it| (*it).to_owned()).collect(),
        };
        assert_eq!(examples(document), [command("one", &["a", "b"]), command("two", &[]), command("three", &[])]);
    }

    #[test]
    fn a_line_fits_when_its_texts_stand_in_their_order() {
        for (printed, written, expected) in [
            ("│ KN_CMD │  Commands │", "… KN_CMD … Commands …", true),
            ("│ Commands │ KN_CMD │", "… KN_CMD … Commands …", false),
            ("  \"count\": 1,", "\"count\": 1,", true),
            ("  \"count\": 12,", "\"count\": 1,", false),
            ("Kn-Signature: key:ab", "Kn-Signature: …:…", true),
            ("state: done", "state: …x", false),
        ] {
            assert_eq!(fits(printed, written), expected, "{printed} / {written}");
        }
    }

    #[test]
    fn a_command_that_fails_or_prints_something_else_is_an_error() {
        let variables = [("B", Path::new("/b"))];
        let check = |block: &str| check(&format!("```console\n{block}\n```\n"), Path::new("/"), &[], &variables);
        assert_eq!(check("$ export A=1\n$ echo is $A $B\nis 1 /b").unwrap(), 2);
        assert!(check("$ echo 2\n1").is_err());
        assert!(check("$ echo 1; false\n1").is_err());
        assert!(check("$ echo 1").is_err(), "a document that does not say what is printed shows nothing");
    }
}
