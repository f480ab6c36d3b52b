//! What processes cost, as the kernel counts it: processor time and memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kubenova_scenarios::platform::Platform;

/// The unit of processor time in /proc (`USER_HZ`): a hundredth of a second wherever the product runs.
const TICK: Duration = Duration::from_millis(10);
/// What resets the peak of a process's memory (proc(5), `clear_refs`).
const RESET_PEAK: &str = "5";

/// The servers of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Servers {
    manager: u32,
    broker: u32,
    postgres: u32,
}

impl Servers {
    /// Those that run now.
    pub(crate) fn of(platform: &mut Platform) -> Result<Self> {
        let (broker, postgres) = (platform.hub.process().pid(), platform.postgres.process().pid());
        let manager = platform.manager.process().context("the Manager runs")?.pid();
        Ok(Self { manager, broker, postgres })
    }

    /// Processor time so far.
    pub(crate) fn spent(self) -> Result<Spent> {
        Ok(Spent {
            broker_pid: self.broker,
            manager: of_process(self.manager)?.own,
            // One that was killed has spent what it has spent; whoever is started after it counts from nothing.
            broker: of_process(self.broker).map(|times| times.own).unwrap_or_default(),
            postgres: of_family(self.postgres)?,
            ourselves: times_at(Path::new("/proc/self/stat"))?.own,
        })
    }

    /// Memory of the Manager that is in RAM, in KiB.
    pub(crate) fn manager_kib(self) -> Result<u64> {
        memory(self.manager, "VmRSS")
    }

    /// Memory of the broker that is in RAM, in KiB.
    pub(crate) fn broker_kib(self) -> Result<u64> {
        memory(self.broker, "VmRSS")
    }

    /// Forgets the peak of the Manager's memory.
    pub(crate) fn reset_manager_peak(self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.manager);
        std::fs::write(&path, RESET_PEAK).with_context(|| format!("could not write {path}"))
    }

    /// The Manager's peak since then, in KiB.
    pub(crate) fn manager_peak_kib(self) -> Result<u64> {
        memory(self.manager, "VmHWM")
    }
}

/// Processor time of each server, and of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    broker_pid: u32,
    pub(crate) manager: Duration,
    pub(crate) broker: Duration,
    pub(crate) postgres: Duration,
    /// The simulated clusters, the load and the raw stages.
    pub(crate) ourselves: Duration,
}

impl Spent {
    /// What was spent after `before`. A broker that was started since then has spent all of its own.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let is_same_broker = self.broker_pid == before.broker_pid;
        let broker_before = if is_same_broker { before.broker } else { Duration::ZERO };
        Self {
            broker_pid: self.broker_pid,
            manager: self.manager.saturating_sub(before.manager),
            broker: self.broker.saturating_sub(broker_before),
            postgres: self.postgres.saturating_sub(before.postgres),
            ourselves: self.ourselves.saturating_sub(before.ourselves),
        }
    }

    /// Prints it as a line of a table. `ourselves` names what this process did.
    pub(crate) fn print(&self, ourselves: &str) {
        println!(
            "| processor seconds | Manager {:.1}, PostgreSQL {:.1}, broker {:.1}, {ourselves} {:.1} |",
            self.manager.as_secs_f64(),
            self.postgres.as_secs_f64(),
            self.broker.as_secs_f64(),
            self.ourselves.as_secs_f64()
        );
    }
}

/// Memory in MiB.
pub(crate) fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// The file with the processor time of the thread that asks: in nanoseconds, because one that does nothing with what it receives
/// spends less than a tick in seconds.
pub(crate) fn this_thread() -> Result<PathBuf> {
    let thread = std::fs::read_link("/proc/thread-self").context("could not read /proc/thread-self")?;
    Ok(Path::new("/proc").join(thread).join("schedstat"))
}

/// Processor time of a thread.
pub(crate) fn of_thread(schedstat: &Path) -> Result<Duration> {
    let text = std::fs::read_to_string(schedstat).with_context(|| format!("could not read {}", schedstat.display()))?;
    let nanoseconds = text.split_whitespace().next().and_then(|number| number.parse().ok());
    nanoseconds.map(Duration::from_nanos).with_context(|| format!("{} is not as expected", schedstat.display()))
}

/// Processor time.
#[derive(Debug, PartialEq, Eq)]
struct Times {
    /// Its own.
    own: Duration,
    /// That of its children which have ended.
    of_ended: Duration,
}

/// Processor time of a process without its children.
pub(crate) fn spent_by(pid: u32) -> Result<Duration> {
    Ok(of_process(pid)?.own)
}

fn of_process(pid: u32) -> Result<Times> {
    times_at(Path::new(&format!("/proc/{pid}/stat")))
}

/// Processor time of a process and of its children, those included that have ended.
fn of_family(pid: u32) -> Result<Duration> {
    // Children first: one that ends in between is counted once more rather than not at all, and it is a moment's work.
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| of_process(child.parse().ok()?).ok());
    let of_children: Duration = children.map(|times| times.own).sum();
    let parent = of_process(pid)?;
    Ok(parent.own + parent.of_ended + of_children)
}

fn times_at(stat: &Path) -> Result<Times> {
    let text = std::fs::read_to_string(stat).with_context(|| format!("could not read {}", stat.display()))?;
    times(&text).with_context(|| format!("{} is not as expected: {text}", stat.display()))
}

fn times(stat: &str) -> Option<Times> {
    // The program's name stands in parentheses and may hold any character. The third field is the first after it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |number: usize| fields.get(number - 3)?.parse::<u32>().ok();
    Some(Times { own: TICK * (ticks(14)? + ticks(15)?), of_ended: TICK * (ticks(16)? + ticks(17)?) })
}

/// A field of memory in /proc/[pid]/status, in KiB.
pub(crate) fn memory(pid: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    kib(&status, field).with_context(|| format!("{path} has no {field}"))
}

fn kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 200 0 0 150 50 3 4 20 0 9 0 12345 1 2";
        let expected = Times { own: Duration::from_secs(2), of_ended: Duration::from_millis(70) };
        assert_eq!(times(stat), Some(expected));
        assert_eq!(times("7 (a"), None);
    }

    #[test]
    fn memory_is_read_from_its_own_line() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(kib(status, "VmRSS"), Some(1024));
        assert_eq!(kib(status, "VmHWM"), Some(2048));
        assert_eq!(kib(status, "Vm"), None);
    }

    #[test]
    fn a_broker_that_was_started_again_has_spent_all_of_its_own() {
        let spent = |broker_pid, seconds| {
            let time = Duration::from_secs(seconds);
            Spent { broker_pid, manager: time, broker: time, postgres: time, ourselves: time }
        };
        let same = spent(1, 9).since(&spent(1, 4));
        assert_eq!((same.manager.as_secs(), same.broker.as_secs()), (5, 5));
        let other = spent(2, 9).since(&spent(1, 4));
        assert_eq!((other.manager.as_secs(), other.broker.as_secs()), (5, 9));
    }

    #[test]
    fn a_thread_that_works_spends_time() {
        let stat = this_thread().unwrap();
        let before = of_thread(&stat).unwrap();
        let mut sum = 0_u64;
        while of_thread(&stat).unwrap() < before + TICK * 2 {
            sum = (0..100_000).fold(sum, |sum: u64, n| sum.wrapping_mul(31).wrapping_add(n));
        }
        assert!(sum != 1, "the work is not left out");
    }
}
