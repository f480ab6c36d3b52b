//! What is shown while steps run: one live line on a terminal; elsewhere plain lines at the start and the end of each
//! step, and every minute between; or one line in a file for another program to show.
//!
//! It also keeps the time of each step, for the time left and for the closing summary.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

use crate::plan::{self, Plan, Timing};

/// Prints a line about the work, on stderr.
pub(crate) fn say(line: &str) {
    // A closed stderr is no reason to stop working.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints what the command was called for, on stdout.
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
    /// Lines at the start and the end of steps and every minute between, for a log.
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
            .map(|step| Timing { estimate: step.estimate, measured: None, calibrates: step.calibrates })
            .collect();
        let ends = vec![None; plan.steps.len()];
        Self { plan, timings, ends, display, begun: Instant::now() }
    }

    /// Runs the named step of the plan. An error is returned once its end has been shown.
    pub(crate) fn step<T>(&mut self, name: &str, work: impl FnOnce(&mut Live<'_>) -> Result<T>) -> Result<T> {
        let index = self.index(name)?;
        let begun = Instant::now();
        let bar = self.bar();
        let mut live = Live { progress: self, index, begun, doing: String::new(), shown: begun, bar };
        live.begin();
        let result = work(&mut live);
        live.bar.finish_and_clear();
        let end = if result.is_ok() { End::Done } else { End::Failed };
        self.end(index, begun.elapsed(), end);
        result
    }

    /// The live line, which redraws itself; on other displays one that draws nothing.
    fn bar(&self) -> ProgressBar {
        if !matches!(self.display, Display::Live) {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{spinner} {prefix}  {elapsed}, {wide_msg}");
        let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(REDRAW);
        bar
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
            (_, End::Done) => say(&format!("{count} {name}: done in {}", plan::exactly(took))),
            (_, End::Failed) => say(&format!("{count} {name}: failed after {}", plan::exactly(took))),
            (_, End::Skipped(why)) => say(&format!("{count} {name}: skipped, {why}")),
        }
        self.ends[index] = Some(end);
    }

    fn count(&self, index: usize) -> String {
        format!("[{}/{}]", index + 1, self.plan.steps.len())
    }
}

/// How often the live line is redrawn.
const REDRAW: Duration = Duration::from_millis(150);
/// How often a long step says that it still runs, where lines stay.
const STILL_RUNNING: Duration = Duration::from_secs(60);

/// The step that is running now.
pub(crate) struct Live<'a> {
    progress: &'a mut Progress,
    index: usize,
    begun: Instant,
    doing: String,
    shown: Instant,
    bar: ProgressBar,
}

impl Live<'_> {
    /// Shows what the step is doing right now.
    pub(crate) fn doing(&mut self, what: &str) {
        let what = what.trim();
        if !what.is_empty() {
            self.doing.clear();
            self.doing.extend(what.chars().filter(|it| !it.is_control()));
        }
        self.tick();
    }

    /// Brings the display up to date.
    pub(crate) fn tick(&mut self) {
        let pause = if matches!(self.progress.display, Display::Lines) { STILL_RUNNING } else { REDRAW };
        if self.shown.elapsed() > pause {
            self.show();
        }
    }

    /// Prints a line that stays, to stdout, above the live line.
    pub(crate) fn print(&mut self, line: &str) {
        self.bar.suspend(|| print(line));
    }

    /// Prints a line that stays, to stderr, above the live line.
    pub(crate) fn say(&mut self, line: &str) {
        self.bar.suspend(|| say(line));
    }

    fn begin(&mut self) {
        if !matches!(self.progress.display, Display::Lines) {
            return self.show();
        }
        let step = &self.progress.plan.steps[self.index];
        let estimate = step.estimate.mul_f64(plan::scale(&self.progress.timings));
        let count = self.progress.count(self.index);
        say(&format!("{count} {}: {} ({})", step.name, step.detail, plan::about(estimate)));
    }

    fn show(&mut self) {
        self.shown = Instant::now();
        let elapsed = self.begun.elapsed();
        let left = plan::about(plan::time_left(&self.progress.timings, elapsed));
        let step = format!("{} {}", self.progress.count(self.index), self.progress.plan.steps[self.index].name);
        match &self.progress.display {
            Display::Lines => say(&format!("{step}: {} so far, {left} left  {}", plan::clock(elapsed), self.doing)),
            Display::Live => {
                self.bar.set_prefix(step);
                self.bar.set_message(format!("{left} left  {}", self.doing));
            }
            Display::File(path) => {
                let new = path.with_extension("new");
                // Until the next one succeeds, whoever shows the file shows the older line.
                let _ = std::fs::write(&new, format!("{step}, about {left} left\n"))
                    .and_then(|()| std::fs::rename(&new, path));
            }
        }
    }
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
    fn the_summary_shows_how_each_step_ended() {
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
    fn control_characters_do_not_reach_the_display() {
        let folder = tempfile::tempdir().unwrap();
        let mut progress = quiet(folder.path());
        let doing = progress.step("one", |live| {
            live.doing("linking\u{1b}[2K kube");
            Ok(live.doing.clone())
        });
        assert_eq!(doing.unwrap(), "linking[2K kube");
    }

    #[test]
    fn a_step_outside_the_plan_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(quiet(folder.path()).step("three", |_| Ok(())).is_err());
    }
}
