//! What will be done and how long it takes: pure data, decided before anything runs.
//!
//! A plan's first guess comes from measurements in the repository; while it runs, the time left
//! is scaled by how this machine compares to the one that measured.

use std::time::Duration;

/// One step, as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// A short name, unique in its plan.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) detail: String,
    /// How long it took where it was measured.
    pub(crate) estimate: Duration,
    /// Whether it is the processor's work, so that its time shows how fast the machine is.
    pub(crate) calibrates: bool,
}

impl Step {
    /// A step of about so many seconds.
    pub(crate) fn new(name: &str, detail: &str, estimate_seconds: u64) -> Self {
        Self {
            name: name.into(),
            detail: detail.into(),
            estimate: Duration::from_secs(estimate_seconds),
            calibrates: true,
        }
    }

    /// A step that waits for the network, whose time says nothing about the processor.
    pub(crate) fn network(name: &str, detail: &str, estimate_seconds: u64) -> Self {
        Self { calibrates: false, ..Self::new(name, detail, estimate_seconds) }
    }
}

/// Steps in the order they run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In order.
    pub(crate) steps: Vec<Step>,
}

impl Plan {
    /// The sum of the first guesses.
    pub(crate) fn estimate(&self) -> Duration {
        self.steps.iter().map(|step| step.estimate).sum()
    }

    /// The plan as lines of text, one a step.
    pub(crate) fn lines(&self) -> Vec<String> {
        let width = self.steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
        self.steps
            .iter()
            .enumerate()
            .map(|(index, step)| {
                format!("  {:>2}. {:<width$}  {:<10}  {}", index + 1, step.name, about(step.estimate), step.detail)
            })
            .collect()
    }
}

/// A step's estimate beside what it took, once it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    /// The first guess.
    pub(crate) estimate: Duration,
    /// What it took; `None` while it has not ended.
    pub(crate) measured: Option<Duration>,
    /// As in [`Step`].
    pub(crate) calibrates: bool,
}

/// Steps shorter than this say nothing about the speed of the machine.
const CALIBRATES_MIN: Duration = Duration::from_secs(5);
/// The machine is never taken to be more than this many times slower or faster than the measured one.
const SCALE_MAX: f64 = 6.0;

/// How much slower this machine is than the one that measured, from the steps that have ended.
pub(crate) fn scale(timings: &[Timing]) -> f64 {
    let (mut measured, mut estimated) = (0.0, 0.0);
    for timing in timings {
        if let Some(took) = timing.measured
            && timing.calibrates
            && timing.estimate >= CALIBRATES_MIN
        {
            measured += took.as_secs_f64();
            estimated += timing.estimate.as_secs_f64();
        }
    }
    if estimated == 0.0 { 1.0 } else { (measured / estimated).clamp(1.0 / SCALE_MAX, SCALE_MAX) }
}

/// The time left, `elapsed` into the first step that has not ended. A step that overran says, like one that has ended,
/// how slow the machine is, and is itself taken to be at nine tenths.
pub(crate) fn time_left(timings: &[Timing], elapsed: Duration) -> Duration {
    let mut timings = timings.to_vec();
    let measured = scale(&timings);
    if let Some(current) = timings.iter_mut().find(|timing| timing.measured.is_none())
        && elapsed > current.estimate.mul_f64(measured)
    {
        current.measured = Some(elapsed);
        let later = timings.iter().filter(|timing| timing.measured.is_none()).map(|timing| timing.estimate);
        return elapsed / 9 + later.sum::<Duration>().mul_f64(scale(&timings));
    }
    let scale = measured;
    let mut pending =
        timings.iter().filter(|timing| timing.measured.is_none()).map(|timing| timing.estimate.mul_f64(scale));
    let current = pending.next().unwrap_or_default().saturating_sub(elapsed);
    current + pending.sum::<Duration>()
}

/// A duration for a person, measured: `4 s`, `2 min 05 s`, `1 h 02 min`.
pub(crate) fn exactly(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A duration for a person, running: `0:04`, `2:05`.
pub(crate) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// A duration for a person, guessed: `a moment`, `30 s`, `5 min`.
pub(crate) fn about(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..5 => "a moment".into(),
        5..55 => format!("{} s", seconds.div_ceil(5) * 5),
        _ => format!("{} min", (seconds + 30).max(60) / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(estimate: u64, measured: Option<u64>) -> Timing {
        Timing {
            estimate: Duration::from_secs(estimate),
            measured: measured.map(Duration::from_secs),
            calibrates: true,
        }
    }

    #[test]
    fn before_anything_is_measured_the_guess_stands() {
        let timings = [timing(10, None), timing(50, None)];
        assert_eq!(time_left(&timings, Duration::from_secs(4)), Duration::from_secs(56));
    }

    #[test]
    fn a_machine_twice_as_slow_doubles_what_is_left() {
        let timings = [timing(10, Some(20)), timing(50, None), timing(5, None)];
        assert_eq!(time_left(&timings, Duration::from_secs(30)), Duration::from_secs(80));
    }

    #[test]
    fn a_step_that_overruns_makes_all_that_comes_longer() {
        let timings = [timing(10, None), timing(50, None)];
        assert_eq!(time_left(&timings, Duration::from_secs(18)), Duration::from_secs(2 + 90));
    }

    #[test]
    fn short_steps_do_not_scale() {
        assert!((scale(&[timing(1, Some(9))]) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_network_does_not_scale_the_processor() {
        let download = Timing { calibrates: false, ..timing(60, Some(1)) };
        assert!((scale(&[download]) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_scale_is_bounded() {
        assert!(scale(&[timing(10, Some(10_000))]) <= SCALE_MAX);
        assert!(scale(&[timing(1000, Some(0))]) > 0.0);
    }

    #[test]
    fn when_all_has_ended_nothing_is_left() {
        assert_eq!(time_left(&[timing(10, Some(9))], Duration::ZERO), Duration::ZERO);
        assert_eq!(time_left(&[], Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(exactly(Duration::from_millis(4200)), "4.2 s");
        assert_eq!(exactly(Duration::from_secs(125)), "2 min 05 s");
        assert_eq!(exactly(Duration::from_secs(3720)), "1 h 02 min");
        assert_eq!(clock(Duration::from_secs(125)), "2:05");
        assert_eq!(about(Duration::from_secs(3)), "a moment");
        assert_eq!(about(Duration::from_secs(16)), "20 s");
        assert_eq!(about(Duration::from_secs(56)), "1 min");
        assert_eq!(about(Duration::from_secs(1020)), "17 min");
    }

    #[test]
    fn a_plan_lists_its_steps_in_order() {
        let plan = Plan { steps: vec![Step::new("one", "first", 1), Step::new("second", "then", 60)] };
        assert_eq!(plan.estimate(), Duration::from_secs(61));
        let lines = plan.lines();
        assert!(lines[0].contains("1. one ") && lines[1].contains("2. second"));
    }
}
