//! Test programs beside each other: workers run them, one place prints, so that lines of two never mix.
//!
//! Guarantees: every job has a log of its own; the output of a failed one is shown in full; a signal ends all of them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::count::Count;
use crate::plan;
use crate::process::{self, Output, create_log};
use crate::progress::Live;
use crate::reason;

/// How often the live line is redrawn while no job prints anything.
const TICK: Duration = Duration::from_millis(200);

/// One test program, or one scenario of it.
#[derive(Debug)]
pub(crate) struct Job {
    /// Its name in the output.
    pub(crate) title: String,
    /// The program.
    pub(crate) command: Command,
    /// Where all its output is kept.
    pub(crate) log: PathBuf,
    /// It mostly waits, for times that are part of what it shows, so one more of its kind runs beside the others.
    pub(crate) is_patient: bool,
}

/// The jobs that have not begun.
#[derive(Debug)]
struct Queue(VecDeque<Job>);

impl Queue {
    /// The next job for a worker, which takes those that mostly wait only if it `is_extra`, and last otherwise.
    fn next(&mut self, is_extra: bool) -> Option<Job> {
        let wanted = self.0.iter().position(|job| job.is_patient == is_extra);
        match wanted {
            Some(position) => self.0.remove(position),
            None if is_extra => None,
            None => self.0.pop_front(),
        }
    }
}

/// What a worker reports to the printing thread.
enum Event {
    Begun(String),
    Line(String, String),
    Ended(Result<Outcome>),
}

/// A job that has ended, as a report shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Its name in the output.
    pub(crate) title: String,
    pub(crate) took: Duration,
    pub(crate) count: Count,
    /// Why it failed; none where it did not, or did not say so.
    pub(crate) reasons: Vec<String>,
}

/// How a job ended.
struct Outcome {
    title: String,
    log: PathBuf,
    status: ExitStatus,
    took: Duration,
    said: Vec<String>,
}

/// Runs all jobs, `at_once` of them at a time; from two on, one more of those that mostly wait runs beside them. `aloud` shows every line
/// as it comes, where only one runs at a time.
pub(crate) fn run(jobs: Vec<Job>, at_once: usize, aloud: bool, live: &mut Live<'_>) -> Result<Vec<Ended>> {
    let workers = at_once.min(jobs.len()).max(1);
    let aloud = aloud && workers == 1;
    let jobs = Mutex::new(Queue(VecDeque::from(jobs)));
    let (sender, events) = channel();
    std::thread::scope(|scope| {
        let extra = usize::from(workers > 1);
        for worker in 0..workers + extra {
            let (jobs, sender) = (&jobs, sender.clone());
            scope.spawn(move || work(jobs, worker >= workers, &sender));
        }
        drop(sender);
        let mut ended = Vec::new();
        loop {
            match events.recv_timeout(TICK) {
                Ok(Event::Begun(title)) if aloud => live.print(&format!("running {title}")),
                Ok(Event::Begun(title)) => live.doing(&title),
                Ok(Event::Line(title, line)) => {
                    if aloud {
                        live.print(&line);
                    }
                    live.doing(&format!("{title}: {line}"));
                }
                Ok(Event::Ended(outcome)) => {
                    let outcome = outcome?;
                    let count = show(&outcome, aloud, live);
                    let reasons = if count.failed > 0 { reason::of(&outcome.said) } else { Vec::new() };
                    ended.push(Ended { title: outcome.title, took: outcome.took, count, reasons });
                }
                Err(RecvTimeoutError::Timeout) => live.tick(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if process::stopping() {
            bail!("stopped");
        }
        Ok(ended)
    })
}

/// How many tests passed in all of them.
pub(crate) fn total(ended: &[Ended]) -> Count {
    let mut count = Count::default();
    ended.iter().for_each(|job| count.add(job.count));
    count
}

fn work(jobs: &Mutex<Queue>, is_extra: bool, sender: &Sender<Event>) {
    // The receiver is gone only when the printing thread has failed.
    let send = |event| drop(sender.send(event));
    while !process::stopping() {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).next(is_extra);
        let Some(mut job) = next else { return };
        send(Event::Begun(job.title.clone()));
        let (mut said, began) = (Vec::new(), Instant::now());
        let ended = create_log(&job.log).and_then(|mut file| {
            process::watch(&mut job.command, &mut file, &mut |output| {
                if let Output::Line(line) = output {
                    said.push(line.to_owned());
                    send(Event::Line(job.title.clone(), line.to_owned()));
                }
            })
        });
        send(Event::Ended(ended.map(|status| Outcome {
            title: job.title,
            log: job.log,
            status,
            took: began.elapsed(),
            said,
        })));
    }
}

/// Shows how a job ended and how long it took; its output is shown when it failed, and was not shown already.
fn show(outcome: &Outcome, aloud: bool, live: &mut Live<'_>) -> Count {
    let Outcome { title, log, status, took, said } = outcome;
    let results: Vec<_> = said.iter().filter(|line| Count::from_line(line).is_some()).collect();
    let mut count = Count::default();
    results.iter().filter_map(|line| Count::from_line(line)).for_each(|found| count.add(found));
    if !status.success() && count.failed == 0 {
        count.failed = 1;
        live.print(&format!("{title} ended with {}; see {}", process::ending(*status), log.display()));
    }
    if count.failed > 0 {
        said.iter().filter(|_| !aloud).for_each(|line| live.print(line));
        live.print(&format!("failed: {title}; see {}", log.display()));
    } else if !aloud && count != Count::default() {
        live.print(&format!("{title}, {}", plan::exactly(*took)));
        results.iter().for_each(|line| live.print(line));
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_that_mostly_wait_have_a_worker_of_their_own() {
        let job = |title: &str, is_patient| Job {
            title: title.to_owned(),
            command: Command::new("true"),
            log: PathBuf::new(),
            is_patient,
        };
        let all = vec![job("waits", true), job("works", false), job("waits, too", true), job("works, too", false)];
        let mut queue = Queue(VecDeque::from(all));
        let mut next = |is_extra| queue.next(is_extra).map(|job| job.title);
        assert_eq!(next(false).as_deref(), Some("works"));
        assert_eq!(next(true).as_deref(), Some("waits"));
        assert_eq!(next(false).as_deref(), Some("works, too"));
        assert_eq!(next(false).as_deref(), Some("waits, too"), "when nothing else is left");
        assert_eq!((next(true), next(false)), (None, None));
    }
}
