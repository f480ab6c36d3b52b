//! Test programs beside each other: workers run them, one place prints, so that lines of two never mix.
//!
//! Guarantees: every job has a log of its own; what a failed one said is shown in full; a signal ends all of them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::executables::{Count, create};
use crate::process::{self, Heard};
use crate::progress::Live;

/// How often the live line is redrawn while nobody says anything.
const TICK: Duration = Duration::from_millis(200);

/// One test program, or one scenario of it.
#[derive(Debug)]
pub(crate) struct Job {
    /// For people.
    pub(crate) title: String,
    /// The program.
    pub(crate) command: Command,
    /// Where all that it says is kept.
    pub(crate) log: PathBuf,
}

/// What a worker tells the one who prints.
enum Told {
    Begun(String),
    Line(String, String),
    Ended(Result<Outcome>),
}

/// How a job ended.
struct Outcome {
    title: String,
    log: PathBuf,
    status: ExitStatus,
    said: Vec<String>,
}

/// Runs all jobs, `at_once` of them at a time. `aloud` shows every line as it comes, where only one runs at a time.
pub(crate) fn run(jobs: Vec<Job>, at_once: usize, aloud: bool, live: &mut Live<'_>) -> Result<Count> {
    let workers = at_once.min(jobs.len()).max(1);
    let aloud = aloud && workers == 1;
    let jobs = Mutex::new(VecDeque::from(jobs));
    let (sender, told) = channel();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (jobs, sender) = (&jobs, sender.clone());
            scope.spawn(move || work(jobs, &sender));
        }
        drop(sender);
        let mut count = Count::default();
        loop {
            match told.recv_timeout(TICK) {
                Ok(Told::Begun(title)) if aloud => live.print(&format!("running {title}")),
                Ok(Told::Begun(title)) => live.doing(&title),
                Ok(Told::Line(title, line)) => {
                    if aloud {
                        live.print(&line);
                    }
                    live.doing(&format!("{title}: {line}"));
                }
                Ok(Told::Ended(outcome)) => count.add(show(&outcome?, aloud, live)),
                Err(RecvTimeoutError::Timeout) => live.tick(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if process::stopping() {
            bail!("stopped");
        }
        Ok(count)
    })
}

fn work(jobs: &Mutex<VecDeque<Job>>, sender: &Sender<Told>) {
    // Nobody listens any more only when the one who prints has failed.
    let tell = |told| drop(sender.send(told));
    while !process::stopping() {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(mut job) = next else { return };
        tell(Told::Begun(job.title.clone()));
        let mut said = Vec::new();
        let ended = create(&job.log).and_then(|mut file| {
            process::watch(&mut job.command, &mut file, &mut |heard| {
                if let Heard::Line(line) = heard {
                    said.push(line.to_owned());
                    tell(Told::Line(job.title.clone(), line.to_owned()));
                }
            })
        });
        tell(Told::Ended(ended.map(|status| Outcome { title: job.title, log: job.log, status, said })));
    }
}

/// Shows how a job ended; what it said is shown when it failed, and was not shown already.
fn show(outcome: &Outcome, aloud: bool, live: &mut Live<'_>) -> Count {
    let Outcome { title, log, status, said } = outcome;
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
        live.print(&format!("     Running {title}"));
        results.iter().for_each(|line| live.print(line));
    }
    count
}
