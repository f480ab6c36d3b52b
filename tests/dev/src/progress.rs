//! What a person sees while steps run: one live line on a terminal, a line at the start and the
//! end of each step elsewhere, or one line in a file for another program to show.
//!
//! It also keeps the time of each step, for the time left and for the closing summary.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::plan::{self, Plan, Timing};

/// Says a line to the person, on stderr.
pub(crate) fn say(line: &str) {
    // A closed stderr is no reason to stop working.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints what was asked for, on stdout.
pub(crate) fn print(text: impl AsRef<str>) {
    let text = text.as_ref();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    // A closed stdout (`| head`) is no reason to stop working.
    let _ = write!(std::io::stdout(), "{text}{end}");
}

/// Where progress is shown.
#[derive(Debug)]
pub(crate) enum Display {
    /// One line that is redrawn, for a terminal.
    Live,
    /// Lines at the start and the end of steps, for a log.
    Lines,
    /// The present state as the only line of a file, for another program.
    File(PathBuf),
}

impl Display {
    /// `Live` on a terminal, `Lines` elsewhere.
    pub(crate) fn for_person() -> Self {
        let terminal = std::io::stderr().is_terminal() && std::env::var_os("CI").is_none();
        if terminal { Self::Live } else { Self::Lines }
    }
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Done,
    Failed,
    Skipped(String),
}

/// The steps of a plan and what has become of them.
#[derive(Debug)]
pub(crate) struct Progress {
    plan: Plan,
    timings: Vec<Timing>,
    ends: Vec<Option<End>>,
    display: Display,
    begun: Instant,
}

impl Progress {
    /// Nothing has begun yet.
    pub(crate) fn new(plan: Plan, display: Display) -> Self {
        let timings = plan
            .steps
            .iter()
            .map(|step| Timing { estimate: step.estimate, measured: None, telling: step.telling })
            .collect();
        let ends = vec![None; plan.steps.len()];
        Self { plan, timings, ends, display, begun: Instant::now() }
    }

    /// Runs the named step of the plan. An error is returned once its end has been shown.
    pub(crate) fn step<T>(&mut self, name: &str, work: impl FnOnce(&mut Live<'_>) -> Result<T>) -> Result<T> {
        let index = self.index(name)?;
        let begun = Instant::now();
        let mut live = Live { progress: self, index, begun, said: String::new(), drawn: None };
        live.begin();
        let result = work(&mut live);
        let end = if result.is_ok() { End::Done } else { End::Failed };
        self.end(index, begun.elapsed(), end);
        result
    }

    /// Says that the named step is not needed, and why.
    pub(crate) fn skip(&mut self, name: &str, why: &str) -> Result<()> {
        let index = self.index(name)?;
        self.end(index, Duration::ZERO, End::Skipped(why.into()));
        Ok(())
    }

    /// One line a step: how it ended and how long it took.
    pub(crate) fn summary(&self) -> Vec<String> {
        let width = self.plan.steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
        let mut lines: Vec<String> = self
            .plan
            .steps
            .iter()
            .zip(&self.timings)
            .zip(&self.ends)
            .map(|((step, timing), end)| {
                let took = timing.measured.map(plan::exactly).unwrap_or_default();
                let end = match end {
                    Some(End::Done) => "ok".to_owned(),
                    Some(End::Failed) => "FAILED".to_owned(),
                    Some(End::Skipped(why)) => {
                        return format!("  {:<width$}  skipped: {why}", step.name);
                    }
                    None => "not run".to_owned(),
                };
                format!("  {:<width$}  {end:<8} {took}", step.name).trim_end().to_owned()
            })
            .collect();
        lines.push(format!("  {:<width$}  {:<8} {}", "all", "", plan::exactly(self.begun.elapsed())));
        lines
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.plan
            .steps
            .iter()
            .position(|step| step.name == name)
            .ok_or_else(|| anyhow!("the plan has no step \"{name}\""))
    }

    fn end(&mut self, index: usize, took: Duration, end: End) {
        self.timings[index].measured = Some(took);
        let (count, name) = (self.count(index), &self.plan.steps[index].name);
        match (&self.display, &end) {
            (Display::File(_), _) => {}
            (Display::Live, End::Done) => {
                say(&format!("{CLEAR}{count} {name}: {}", plan::exactly(took)));
            }
            (Display::Live, End::Failed) => {
                say(&format!("{CLEAR}{count} {name}: failed after {}", plan::exactly(took)));
            }
            (Display::Lines, End::Done) => {
                say(&format!("{count} {name}: done in {}", plan::exactly(took)));
            }
            (Display::Lines, End::Failed) => say(&format!("{count} {name}: failed after {}", plan::exactly(took))),
            (_, End::Skipped(why)) => say(&format!("{count} {name}: skipped, {why}")),
        }
        self.ends[index] = Some(end);
    }

    fn count(&self, index: usize) -> String {
        format!("[{}/{}]", index + 1, self.plan.steps.len())
    }
}

const CLEAR: &str = "\r\x1b[2K";
/// The live line is redrawn no more often than this.
const REDRAW: Duration = Duration::from_millis(150);
/// Used when the terminal's width is not known: no terminal is narrower, and a line that wraps cannot be redrawn.
const WIDTH: usize = 80;

/// The step that is running now.
pub(crate) struct Live<'a> {
    progress: &'a mut Progress,
    index: usize,
    begun: Instant,
    said: String,
    drawn: Option<Instant>,
}

impl Live<'_> {
    /// Shows what the step is doing right now.
    pub(crate) fn doing(&mut self, what: &str) {
        let what = what.trim();
        if !what.is_empty() {
            self.said.clear();
            self.said.push_str(what);
        }
        self.tick();
    }

    /// Lets the clock move on.
    pub(crate) fn tick(&mut self) {
        if self.drawn.is_none_or(|drawn| drawn.elapsed() > REDRAW) {
            self.draw();
        }
    }

    /// Prints a line that stays, to stdout, above the live line.
    pub(crate) fn print(&mut self, line: &str) {
        self.erase();
        print(line);
    }

    /// Says a line that stays, to stderr, above the live line.
    pub(crate) fn say(&mut self, line: &str) {
        self.erase();
        say(line);
    }

    fn erase(&mut self) {
        if matches!(self.progress.display, Display::Live) {
            let _ = write!(std::io::stderr(), "{CLEAR}");
            self.drawn = None;
        }
    }

    fn begin(&mut self) {
        if matches!(self.progress.display, Display::Lines) {
            let step = &self.progress.plan.steps[self.index];
            let estimate = step.estimate.mul_f64(plan::scale(&self.progress.timings));
            say(&format!(
                "{} {}: {} ({})",
                self.progress.count(self.index),
                step.name,
                step.detail,
                plan::about(estimate)
            ));
        }
        self.draw();
    }

    fn draw(&mut self) {
        self.drawn = Some(Instant::now());
        let left = plan::time_left(&self.progress.timings, self.begun.elapsed());
        let count = self.progress.count(self.index);
        let name = &self.progress.plan.steps[self.index].name;
        let elapsed = plan::clock(self.begun.elapsed());
        match &self.progress.display {
            Display::Lines => {}
            Display::Live => {
                let line = format!("{count} {name}  {elapsed}, {} left  {}", plan::about(left), self.said);
                let line: String = line.chars().filter(|c| !c.is_control()).take(width().saturating_sub(1)).collect();
                let _ = write!(std::io::stderr(), "{CLEAR}{line}");
            }
            Display::File(path) => {
                let line = format!("{count} {name}, about {} left\n", plan::about(left));
                let new = path.with_extension("new");
                // Whoever shows it shows the older line until the next redraw.
                let _ = std::fs::write(&new, line).and_then(|()| std::fs::rename(&new, path));
            }
        }
    }
}

fn width() -> usize {
    std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;

    fn quiet(folder: &std::path::Path) -> Progress {
        let plan = Plan { steps: vec![Step::new("one", "first", 10), Step::new("two", "then", 10)] };
        Progress::new(plan, Display::File(folder.join("progress")))
    }

    #[test]
    fn the_summary_tells_how_each_step_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut progress = quiet(folder.path());
        progress.skip("one", "nothing to do").unwrap();
        let failed: Result<()> = progress.step("two", |_| Err(anyhow!("no")));
        assert!(failed.is_err());
        let summary = progress.summary();
        assert_eq!(summary[0], "  one  skipped: nothing to do");
        assert!(summary[1].starts_with("  two  FAILED"), "{}", summary[1]);
    }

    #[test]
    fn a_file_display_holds_the_present_step() {
        let folder = tempfile::tempdir().unwrap();
        let mut progress = quiet(folder.path());
        progress.step("one", |_| Ok(())).unwrap();
        let line = std::fs::read_to_string(folder.path().join("progress")).unwrap();
        assert_eq!(line, "[1/2] one, about 20 s left\n");
    }

    #[test]
    fn a_step_outside_the_plan_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(quiet(folder.path()).step("three", |_| Ok(())).is_err());
    }
}
