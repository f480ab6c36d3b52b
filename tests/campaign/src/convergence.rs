//! When everything has ended: a condition, not a time.

use std::time::Duration;

use anyhow::Result;
use kubenova_env::poll::{self, Step};
use kubenova_scenarios::steps;

use crate::fleet::Fleet;

/// For everything to end and every cluster to be in session once a fault has ended. What was `sent` when a broker lost it is sent
/// again after half a minute; what a cluster lost, once its listing was compared.
const CONVERGED_MAX: Duration = Duration::from_secs(300);

/// Waits until every command has ended, every cluster is in session, and each holds what was accepted last.
pub(crate) async fn converge(fleet: &Fleet) -> Result<()> {
    poll::until("everything to end", CONVERGED_MAX, || async {
        let waiting = Step::from_attempt(waiting_for(fleet).await);
        Ok(match waiting {
            Step::Done(None) => Step::Done(()),
            Step::Done(Some(seen)) | Step::Waiting(seen) => Step::Waiting(seen),
        })
    })
    .await
}

/// What is still to come, if anything is.
async fn waiting_for(fleet: &Fleet) -> Result<Option<String>> {
    let open = steps::open_commands(&fleet.platform)?;
    if !open.is_empty() {
        return Ok(Some(format!("open commands: {open}")));
    }
    let out = fleet.simulated.iter().find_map(|one| Some(format!("{}: {}", one.name, one.session().err()?)));
    if out.is_some() {
        return Ok(out);
    }
    let cluster = fleet.platform.rest.get(&format!("/api/v1/clusters/{}", fleet.site.id)).await?.expect(200)?;
    if cluster["connection"] != "connected" {
        return Ok(Some(format!("the real cluster: {}", cluster["connection"])));
    }
    Ok(fleet.compare()?.first().map(ToString::to_string))
}
