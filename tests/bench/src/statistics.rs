//! Percentiles of durations, and a reproducible Poisson process.

use std::time::Duration;

use kubenova_scenarios::seed::SplitMix64;

/// Durations of one stage.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample(Vec<Duration>);

impl Sample {
    pub(crate) fn push(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest duration that `percent` of all do not exceed; zero when there are none.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }
}

/// A percentile in milliseconds.
pub(crate) fn milliseconds(sample: &Sample, percent: usize) -> f64 {
    sample.percentile(percent).as_secs_f64() * 1000.0
}

/// The slope of a straight line through the logarithms, by least squares: 0 for a cost that does not depend on x, 1 for one that
/// is proportional to it. None when there are no two different x above zero.
pub(crate) fn log_log_slope(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> =
        points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0).map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = f64::from(u32::try_from(logs.len()).ok()?);
    let (mean_x, mean_y) =
        (logs.iter().map(|(x, _)| x).sum::<f64>() / count, logs.iter().map(|(_, y)| y).sum::<f64>() / count);
    let spread: f64 = logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let common: f64 = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (spread > 0.0).then(|| common / spread)
}

/// One line of a table: p50 and p99 in milliseconds, and their ratios to the raw stage's.
pub(crate) fn row(name: &str, sample: &Sample, raw: Option<&Sample>) -> String {
    let ratio = |percent| {
        raw.map_or_else(String::new, |raw| {
            let raw = raw.percentile(percent).as_secs_f64();
            format!("{:.2}", sample.percentile(percent).as_secs_f64() / raw)
        })
    };
    format!(
        "| {name} | {} | {:.1} | {:.1} | {} | {} |",
        sample.len(),
        milliseconds(sample, 50),
        milliseconds(sample, 99),
        ratio(50),
        ratio(99)
    )
}

/// Pauses between events of a Poisson process, by seed.
#[derive(Debug)]
pub(crate) struct Poisson {
    numbers: SplitMix64,
    rate: f64,
}

impl Poisson {
    /// `rate` events a second on average.
    pub(crate) fn new(seed: u64, rate: f64) -> Self {
        Self { numbers: SplitMix64::new(seed), rate }
    }

    pub(crate) fn pause(&mut self) -> Duration {
        // 32 bits are exact in an f64 and enough here; never zero.
        let uniform = (f64::from(u32::try_from(self.numbers.next() >> 32).unwrap_or(u32::MAX)) + 1.0) / 4_294_967_296.0;
        Duration::from_secs_f64(-uniform.ln() / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut sample = Sample::default();
        (1..=100).for_each(|n| sample.push(Duration::from_millis(n)));
        assert_eq!(sample.percentile(50), Duration::from_millis(50));
        assert_eq!(sample.percentile(99), Duration::from_millis(99));
        assert_eq!(Sample::default().percentile(99), Duration::ZERO);
    }

    #[test]
    fn a_slope_is_the_exponent() {
        let points = |exponent: f64| [1.0_f64, 10.0, 100.0].map(|x| (x, 3.0 * x.powf(exponent)));
        for exponent in [0.0, 0.5, 1.0, -1.0] {
            let slope = log_log_slope(&points(exponent)).unwrap();
            assert!((slope - exponent).abs() < 1e-9, "{slope} instead of {exponent}");
        }
        assert_eq!(log_log_slope(&[(5.0, 1.0), (5.0, 2.0), (0.0, 9.0)]), None);
        assert_eq!(log_log_slope(&[]), None);
    }

    #[test]
    fn a_poisson_process_has_its_rate() {
        let mut poisson = Poisson::new(1, 20.0);
        let total: Duration = (0..10_000).map(|_| poisson.pause()).sum();
        assert!((total.as_secs_f64() - 500.0).abs() < 25.0, "{total:?}");
    }
}
