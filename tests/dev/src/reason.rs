//! Why tests failed, out of what their programs printed: it stands once more at the end of a run, where a person looks first.

/// Lines of one reason: an error with its causes, or an assertion with both sides.
const LINES_MAX: usize = 30;
/// Characters of one line: a condition that a test waited for may show whole objects.
const LINE_CHARACTERS_MAX: usize = 2_000;

/// Errors that tests returned and panics, without their backtraces.
pub(crate) fn of(printed: &[String]) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut rest = printed.iter();
    while let Some(line) = rest.next() {
        if !begins(line) {
            continue;
        }
        let more = rest.clone().take_while(|line| !ends(line)).take(LINES_MAX - 1);
        reasons.extend(std::iter::once(line).chain(more).map(|line| shortened(line)));
    }
    while reasons.last().is_some_and(|line: &String| line.trim().is_empty()) {
        reasons.pop();
    }
    reasons
}

fn begins(line: &str) -> bool {
    line.starts_with("Error: ") || (line.starts_with("thread '") && line.contains(" panicked at "))
}

fn ends(line: &str) -> bool {
    begins(line)
        || line.eq_ignore_ascii_case("stack backtrace:")
        || ["note: ", "test ", "failures:", "---- "].iter().any(|start| line.starts_with(start))
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(LINE_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(printed: &str) -> Vec<String> {
        of(&printed.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn an_error_is_shown_with_its_causes_and_without_its_backtrace() {
        let printed = "running 1 test\nError: could not join\n\nCaused by:\n    no route\n\nStack backtrace:\n   0: main\n\
                       test life_join ... FAILED\n\nfailures:\n";
        assert_eq!(reasons(printed), ["Error: could not join", "", "Caused by:", "    no route"]);
    }

    #[test]
    fn each_panic_is_shown_with_both_sides() {
        let printed = "thread 'a' (7) panicked at src/a.rs:1:2:\nassertion `left == right` failed\n  left: 1\n right: 2\n\
                       stack backtrace:\n   0: main\nthread 'b' (8) panicked at src/b.rs:3:4:\nno\n\
                       note: run with `RUST_BACKTRACE=1`\n";
        let first = "thread 'a' (7) panicked at src/a.rs:1:2:";
        let second = "thread 'b' (8) panicked at src/b.rs:3:4:";
        let expected = [first, "assertion `left == right` failed", "  left: 1", " right: 2", second, "no"];
        assert_eq!(reasons(printed), expected);
    }

    #[test]
    fn what_is_long_is_shortened() {
        let line = format!("Error: {}", "ä".repeat(LINE_CHARACTERS_MAX));
        assert_eq!(reasons(&line)[0].chars().count(), LINE_CHARACTERS_MAX + 1);
        let lines = format!("Error: no\n{}", "cause\n".repeat(2 * LINES_MAX));
        assert_eq!(reasons(&lines).len(), LINES_MAX);
    }
}
