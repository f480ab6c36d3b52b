//! One round: clients write, something breaks and ends, the clients stop, everything ends, and the oracle decides.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kubenova_scenarios::oracle::{self, Finding, Wrong};
use serde_json::json;

use crate::convergence::converge;
use crate::fault::Drawn;
use crate::fleet::Fleet;
use crate::inject;

/// Clients write so long before something breaks, and after it has ended.
const AROUND: Duration = Duration::from_secs(3);
/// What a round showed.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) fault: String,
    pub(crate) matrix: &'static str,
    /// Since the campaign began.
    pub(crate) at: Duration,
    pub(crate) lasted: Duration,
    /// From the end of the fault until everything had ended; none when it did not.
    pub(crate) recovered: Option<Duration>,
    pub(crate) writes: usize,
    pub(crate) commands: usize,
    pub(crate) findings: Vec<Finding>,
}

/// Violations that were reported before: some are found again in each round.
pub(crate) type Reported = BTreeSet<String>;

/// Runs a round.
pub(crate) async fn run(fleet: &mut Fleet, drawn: &Drawn, began: Instant, reported: &mut Reported) -> Result<Row> {
    let name = drawn.entry.name();
    let first = fleet.writing.accepted.len();
    fleet.writing.start();
    tokio::time::sleep(AROUND).await;
    let (at, broken) = (began.elapsed(), Instant::now());
    fleet.history.note("fault", &json!({ "name": name, "seconds": drawn.lasts.as_secs_f32() }))?;
    Box::pin(inject::inject(fleet, drawn)).await.with_context(|| format!("in round \"{name}\""))?;
    let (lasted, ended) = (broken.elapsed(), Instant::now());
    fleet.history.note("ended", &json!({ "name": name }))?;
    tokio::time::sleep(AROUND).await;
    fleet.stop_writing().await?;

    let converged = converge(fleet).await;
    let recovered = converged.is_ok().then(|| ended.elapsed());
    let mut findings = match converged {
        Ok(()) => Vec::new(),
        Err(error) => vec![Finding::new(Wrong::Lost, format!("not everything has ended: {error:#}"))],
    };
    let written = &fleet.writing.accepted[first..];
    let commands = written.iter().filter(|write| write.command.is_some()).count();
    let writes = written.len();
    findings.extend(Box::pin(decide(fleet, first)).await?);
    findings.retain(|finding| reported.insert(finding.to_string()));
    for finding in &findings {
        fleet.history.note("violation", &json!(finding.to_string()))?;
    }
    Ok(Row { fault: name, matrix: drawn.entry.matrix, at, lasted, recovered, writes, commands, findings })
}

/// Everything that the oracle finds.
async fn decide(fleet: &mut Fleet, first: usize) -> Result<Vec<Finding>> {
    let mut findings = fleet.compare()?;
    findings.extend(oracle::commands(&fleet.platform.rest, &fleet.writing.accepted[first..]).await?);
    findings.extend(fleet.settle().await?);
    for cluster in &fleet.simulated {
        findings.extend(oracle::effects(&cluster.name, cluster.inbox().effects()));
    }
    findings.extend(fleet.observer.findings());
    Ok(findings)
}
